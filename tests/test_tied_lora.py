"""T36: LoRA on one of two tied layers is refused by `finetune check`; the ways out train, merge and load again as told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune.basefit import base_problems
from finetune.checkpoint.tensors import load_tensors
from finetune.errors import RecipeError
from finetune.export.ends import ends_problems, gguf_is_tied, is_tied_by_config, lora_on_ends
from finetune.lora_fields import TIED_WAYS_OUT
from finetune.model.adapter import add_adapter
from finetune.model.teacher import _adapted
from finetune.recipe_peft import LoraSection
from finetune.run import run
from tests.equivalence.tiny_models import tiny_model
from tests.export.made import IDS
from tests.model.test_lora_variants import VARIANTS, Life

NAMED = f"lora.target_modules: embed_tokens: {TIED_WAYS_OUT}"


def test_check_refuses_before_the_data_is_read(tiny_recipe, capsys, tmp_path):
    """The tiny base's config.json says tie_word_embeddings; nothing of torch's is asked."""
    from finetune.cli import main

    tiny_recipe()
    assert main(["check", str(tmp_path / "tiny.yaml"), "--set", "lora.target_modules=[q_proj, embed_tokens]"]) == 2
    assert NAMED in capsys.readouterr().err
    assert base_problems(tiny_recipe("lora.target_modules=.*(q_proj|lm_head)")) == [
        NAMED.replace("embed_tokens", "lm_head", 1)
    ]
    for more in ("lora.ensure_weight_tying=true", "lora.target_modules=[q_proj]"):
        assert base_problems(tiny_recipe("lora.target_modules=[q_proj, embed_tokens]", more)) == []


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, False),
        ({"model_type": "gemma3", "text_config": {"tie_word_embeddings": True}}, True),
        ({"model_type": "gemma"}, True),  # transformers' own default, which its files leave out
        ({"model_type": "llama"}, False),
        ({"model_type": "nobody's"}, None),
        ({"model_type": "llama", "auto_map": {}}, None),  # the model's own code says
    ],
    ids=str,
)
def test_what_the_configuration_says(config, tied):
    assert is_tied_by_config(config) is tied


@pytest.mark.parametrize(
    ("targets", "ends"),
    [
        ("all-linear", []),
        (["q_proj", "model.embed_tokens", "lm_head"], ["lm_head", "model.embed_tokens"]),
        (r"model\.embed_tokens|.*q_proj", ["embed_tokens"]),
        (r".*", ["embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "lm_head", "embed_out"]),
        (r"transformer\.wte", ["wte"]),
        (r".*layers.*", []),
    ],
    ids=str,
)
def test_which_targets_are_ends(targets, ends):
    assert lora_on_ends({"target_modules": targets}) == ends


def test_nothing_is_asked_where_nothing_depends_on_it():
    def never() -> bool:
        raise AssertionError("asked")

    assert ends_problems({"target_modules": "all-linear"}, never) == []
    ends = {"target_modules": ["lm_head"]}
    assert ends_problems(ends, lambda: None) == []  # found when the base is loaded
    assert ends_problems(ends | {"ensure_weight_tying": True}, lambda: False) == [
        "lora.ensure_weight_tying: the base's embedding and output layer are two tensors; leave it out"
    ]


def test_a_gguf_file_without_an_output_layer_is_tied(tmp_path):
    from gguf import GGUFWriter

    for name, last in (("tied", []), ("apart", ["output.weight"])):
        writer = GGUFWriter(str(tmp_path / f"{name}.gguf"), "llama")
        for tensor in ("token_embd.weight", *last):
            writer.add_tensor(tensor, torch.zeros(4, 4).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    assert gguf_is_tied(tmp_path / "tied.gguf") is True and gguf_is_tied(tmp_path / "apart.gguf") is False
    assert gguf_is_tied(tmp_path / "none.gguf") is None


def test_the_two_ends_have_one_gradient():
    """With delta = s B A on the embedding E and its transpose on the output layer, d loss / dA is the sum of what each end
    gives. Here by a plain model in which E itself is trained: dA = s B^T dE^T, (r, vocabulary), for LoRA's own names
    A (r, vocabulary) and B (width, r), E + s (B A)^T."""
    base = tiny_model("llama", tie_word_embeddings=True, num_hidden_layers=2)
    embedding = base.get_input_embeddings().weight
    embedding.requires_grad_(True)
    base(IDS, labels=IDS).loss.backward()
    whole = embedding.grad.clone()
    section = LoraSection(r=4, lora_alpha=8, target_modules=["embed_tokens"], ensure_weight_tying=True)
    model, _ = add_adapter(tiny_model("llama", tie_word_embeddings=True, num_hidden_layers=2), section, seed=0)
    assert len([name for name, p in model.named_parameters() if p.requires_grad]) == 2
    model(IDS, labels=IDS).loss.backward()
    layer = model.get_base_model().get_input_embeddings()
    a, b = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
    torch.testing.assert_close(a.grad, 2.0 * b.detach().T @ whole.T, rtol=1e-4, atol=1e-7)


WAYS = {
    "as one": ("lora.target_modules=[q_proj, embed_tokens]", "lora.ensure_weight_tying=true"),
    "rows": ("lora.target_modules=[q_proj]", "lora.trainable_token_indices=[49, 50, 51]"),
    "whole": ("lora.target_modules=[q_proj]", "lora.modules_to_save=[embed_tokens]"),
    "whole, as one": (
        "lora.target_modules=[q_proj]", "lora.modules_to_save=[embed_tokens]", "lora.ensure_weight_tying=true",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", [pytest.param(way, marks=[] if way == "as one" else pytest.mark.slow) for way in WAYS])
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning")
def test_a_whole_run_of_each_way_out(way, tiny_recipe):
    """Merged = adapter below 1e-5; what config.json says of the ends is what lies in the file; and where they are one, the
    embedding's change is exactly s (B A)^T, once."""
    recipe = tiny_recipe(*WAYS[way], "train.max_steps=3", "evaluate.rows=2")
    result = run(recipe)
    assert result.manifest["merge_proof"]["max_logit_difference"] < 1e-5
    config = json.loads((result.bundle / "config.json").read_text())
    tensors = load_tensors(result.bundle / "model.safetensors")
    assert config["tie_word_embeddings"] is ("lm_head.weight" not in tensors) is (way != "whole")
    if way == "as one":
        adapter = load_tensors(result.bundle / "adapter/adapter_model.safetensors")
        base = load_tensors(Path(recipe.model.name_or_path) / "model.safetensors")
        lead = "base_model.model."
        a, b = (adapter[f"{lead}model.embed_tokens.lora_embedding_{half}"] for half in "AB")
        name = "model.embed_tokens.weight"
        assert torch.equal(adapter[f"{lead}lm_head.lora_A.weight"], b.T)
        assert torch.equal(adapter[f"{lead}lm_head.lora_B.weight"], a.T)
        torch.testing.assert_close(tensors[name] - base[name], 2.0 * (b @ a).T, rtol=0, atol=1e-6)
        assert float((b @ a).abs().max()) > 1e-3


def test_a_base_found_out_late_is_refused_when_it_is_loaded(tiny_recipe):
    """As from the hub, where `check` has no config.json yet."""
    from finetune import inputs

    recipe = tiny_recipe("lora.target_modules=[q_proj, embed_tokens]")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RecipeError) as error:
        patch.setattr(inputs, "base_problems", lambda recipe: [])
        run(recipe)
    assert error.value.problems == [f"lora.target_modules: model.embed_tokens: {TIED_WAYS_OUT}"]


def test_a_teacher_is_not_merged_by_peft_where_that_changes_one_tensor_twice(tmp_path):
    """peft 0.21's merge_and_unload adds s (B A)^T for each end to the one tensor; ours (above) does so once."""
    life = Life("tied, as one")
    life.steps(0)
    life.save(tmp_path / "adapter", as_checkpoint=False)
    architecture, changes, _, _ = VARIANTS["tied, as one"]
    base: Any = SimpleNamespace(model=tiny_model(architecture, **changes))
    with pytest.raises(
        RecipeError, match=r"adapter_name_or_path: .*are one tensor, which peft's own merge would change twice"
    ):
        _adapted(base, tmp_path / "adapter")
