"""Whole tiny runs with new tokens and with trained rows: only those rows move, resumed and chained runs go on with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from finetune.cli import main
from finetune.errors import RecipeError
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, byte_tokenizer, tiny_llama, write_tiny_recipe
from tests.equivalence.processes import FSDP2, torchrun
from tests.equivalence.test_resume import LONG, assert_same_bits, run_until, stir
from tests.stages.made import load_tiny
from tests.test_chain import chain_file

TOKENS = "model.add_tokens=[larger, ' yes', 'no', <RWY>]"  # ids 258 to 261
NEW = [258, 259, 260, 261]
ENDS = ("model.embed_tokens.weight", "lm_head.weight")


def save_base(folder: Path, tied: bool, rows: int = 258) -> Path:
    model = tiny_llama(rows)
    if not tied:
        from transformers import LlamaForCausalLM

        torch.manual_seed(5)
        model.config.tie_word_embeddings = False
        model = LlamaForCausalLM(model.config)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[pytest.param(True, marks=pytest.mark.slow), False], ids=["tied", "untied"])
def base(request, tmp_path_factory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"), request.param)


def moved_rows(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Rows of `after` that are not those of `before`, further ones included."""
    rows = len(before)
    changed = (after[:rows] != before).any(1).nonzero().flatten().tolist()
    return changed + list(range(rows, len(after)))


def test_trained_merged_served_and_resumed(base, tiny_data, tmp_path, monkeypatch):
    """Stopped and resumed bit for bit; of the merged vocabulary nothing but the new rows is new, and they have left
    their first values, the mean of the pieces' rows; merged = adapter to 1e-5; the adapter holds the rows alone."""
    long = [*LONG, "train.max_steps=8", TOKENS]
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    recipe = load_recipe(write_tiny_recipe(tmp_path / "whole", base, tiny_data), long)
    result = run(recipe)
    assert result is not None
    other = load_recipe(write_tiny_recipe(tmp_path / "resumed", base, tiny_data), long)
    run_until(other, 13, monkeypatch)
    stir()
    run(other, resume="auto")
    assert_same_bits(recipe.output_dir, other.output_dir)

    before, after = load_file(base / "model.safetensors"), load_file(result.bundle / "model.safetensors")
    adapter = load_file(result.bundle / "adapter/adapter_model.safetensors")
    ends = [name for name in ENDS if name in before]
    assert len(ends) == 1 + ("lm_head.weight" in before)
    for name in ends:
        assert moved_rows(before[name], after[name]) == NEW
        own = adapter[f"base_model.model.{name.removesuffix('.weight')}.token_adapter.trainable_tokens_delta"]
        assert own.shape == (4, 64) and torch.equal(own, after[name][258:])
        for row, text in zip(own, ("larger", " yes", "no", "<RWY>"), strict=True):
            mean = before[name][byte_tokenizer().encode(text, add_special_tokens=False)].mean(0)
            # the last word is in no row, so only the output layer's row for it has a gradient (of not being said)
            still = text == "<RWY>" and name == ENDS[0] and len(ends) == 2
            assert torch.allclose(row, mean, atol=1e-6) == still
    assert sum("trainable_tokens" in name or "lora_" in name for name in adapter) == len(adapter)
    told = result.manifest
    assert told["merge_proof"]["max_logit_difference"] < 1e-5 and told["merge"]["vocabulary"] == 262
    assert told["training"]["model.add_tokens"]["larger"] == {"id": 258, "pieces": 6}
    assert json.loads((result.bundle / "config.json").read_text())["vocab_size"] == 262
    assert yaml.safe_load((result.bundle / "recipe.yaml").read_text())["model"]["add_tokens"][3] == "<RWY>"


def test_the_bundle_s_adapter_by_hand_and_by_export(base, tiny_data, tmp_path):
    """peft's own loader after one `resize_token_embeddings`, as docs/tokens.md has it, gives the merged model's logits;
    `finetune export` of the bare adapter gives the merged weights again."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = run(load_recipe(write_tiny_recipe(tmp_path, base, tiny_data), [TOKENS, "train.max_steps=2"]))
    assert result is not None
    adapter = result.bundle / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer))
    tuned = PeftModel.from_pretrained(model, adapter)
    merged = AutoModelForCausalLM.from_pretrained(result.bundle)
    ids = tokenizer("3 7? larger 7\nsame no yes<RWY>", return_tensors="pt").input_ids
    assert set(NEW) <= set(ids[0].tolist())
    with torch.no_grad():
        assert float((tuned(ids).logits - merged(ids).logits).abs().max()) < 1e-5
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"messages": [{"role": "user", "content": "larger yes<RWY>?"}]}))
    output = tmp_path / "again"
    arguments = ["export", str(adapter), "--base", str(base), "--output", str(output), "--prompts", str(prompts)]
    assert main(arguments) == 0
    assert (output / "model.safetensors").read_bytes() == (result.bundle / "model.safetensors").read_bytes()
    assert AutoTokenizer.from_pretrained(output).convert_tokens_to_ids("<RWY>") == 261


@pytest.mark.slow
def test_a_padded_vocabulary_has_room(tiny_data, tmp_path):
    """272 rows for 258 tokens, as Qwen's: nothing is resized, the rows in the room are begun anew and trained."""
    base = save_base(tmp_path / "base", tied=True, rows=272)
    result = run(load_recipe(write_tiny_recipe(tmp_path, base, tiny_data), [TOKENS, "train.max_steps=2"]))
    assert result is not None
    before, after = load_file(base / "model.safetensors"), load_file(result.bundle / "model.safetensors")
    assert result.manifest["merge"]["vocabulary"] is None and len(after[ENDS[0]]) == 272
    assert moved_rows(before[ENDS[0]], after[ENDS[0]]) == NEW
    assert result.manifest["merge_proof"]["max_logit_difference"] < 1e-5


@pytest.mark.parametrize("how", [pytest.param("adapter", marks=pytest.mark.slow), "merged"])
@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["tied", "untied"])
def test_a_chain_goes_on_with_its_tokens(how, tied, tiny_data, tmp_path):
    """The second stage trains the rows further, wherever it finds the tokens: in the recipe, or in the merged base."""
    base = save_base(tmp_path / "base", tied)
    stages = [
        {"name": "first", "train": {"max_steps": 3}},
        {"name": "second", "train": {"max_steps": 2}, "continue_from": how},
    ]
    recipe = load_recipe(chain_file(tmp_path, base, tiny_data, stages), [TOKENS])
    result = run(recipe)
    assert result is not None
    proof = result.manifest["merge_proof"]
    assert proof["max_logit_difference"] < 1e-5
    new = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    first, last = (
        load_file(folder / "adapter/adapter_model.safetensors")[new]
        for folder in (recipe.output_dir / "stages/1-first", recipe.output_dir)
    )
    assert first.shape == last.shape == (4, 64) and not torch.equal(first[0], last[0])
    after = load_file(result.bundle / "model.safetensors")
    assert torch.equal(after[ENDS[0]][258:], last)
    pieces = {word: told["pieces"] for word, told in result.manifest["training"]["model.add_tokens"].items()}
    assert set(pieces.values()) == ({1} if how == "merged" else {6, 4, 2, 5})
    assert moved_rows(load_file(base / "model.safetensors")[ENDS[0]], after[ENDS[0]]) == NEW


@pytest.mark.slow
def test_an_adapter_of_other_tokens_is_not_gone_on_with(tiny_data, tmp_path):
    base = save_base(tmp_path / "base", tied=True)
    file = write_tiny_recipe(tmp_path, base, tiny_data)
    recipe = load_recipe(file, [TOKENS, "train.max_steps=1"])
    run(recipe)
    again = [
        f"model.adapter_name_or_path={recipe.output_dir}/adapter",
        f"output_dir={tmp_path}/again",
        "train.max_steps=1",
    ]
    with pytest.raises(RecipeError) as caught:
        run(load_recipe(file, [*again, "model.add_tokens=[' yes', larger, 'no', <RWY>]"]))
    key = "model.adapter_name_or_path"
    assert [problem.partition(" in /")[0] for problem in caught.value.problems] == [
        f"{key}: id 258 is 'larger'", f"{key}: id 259 is ' yes'"
    ]  # fmt: skip
    with pytest.raises(RecipeError, match=r"lora.trainable_token_indices: None, but the adapter in"):
        run(load_recipe(file, again))


@pytest.mark.parametrize(
    ("tied", "indices"),
    [
        (True, "[75, 30]"),
        pytest.param(False, "{embed_tokens: [75, 30], lm_head: [30]}", marks=pytest.mark.slow),
    ],
    ids=["tied", "by layer"],
)
def test_rows_that_the_user_names(tied, indices, tiny_data, tmp_path, monkeypatch):
    """`l` is 75, `?` is 30. A list is for the embedding, and for what is tied to it; only these rows move, merged and
    resumed exactly. (Other rows for a tied output layer untie it: tests/export/test_merge.py.)"""
    base = save_base(tmp_path / "base", tied)
    long = [*LONG, "train.max_steps=8", f"lora.trainable_token_indices={indices}"]
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    recipe = load_recipe(write_tiny_recipe(tmp_path / "whole", base, tiny_data), long)
    result = run(recipe)
    assert result is not None
    other = load_recipe(write_tiny_recipe(tmp_path / "resumed", base, tiny_data), long)
    run_until(other, 13, monkeypatch)
    stir()
    run(other, resume="auto")
    assert_same_bits(recipe.output_dir, other.output_dir)
    before, after = load_file(base / "model.safetensors"), load_file(result.bundle / "model.safetensors")
    moved = {name: moved_rows(before[name], after[name]) for name in ENDS if name in before}
    head = {} if tied else {ENDS[1]: [30] if "lm_head" in indices else []}
    assert moved == {ENDS[0]: [30, 75]} | head
    assert result.manifest["merge_proof"]["max_logit_difference"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_preference_stages(base, stage, tmp_path):
    """The reference is the base with the tokens' first rows: the adapter turned off."""
    result = run(load_tiny(tmp_path, base, stage, "model.add_tokens=[larger, '?']"))
    assert result is not None
    assert result.manifest["merge_proof"]["max_logit_difference"] < 1e-5
    assert result.manifest["merge"]["vocabulary"] == 259  # `?` is a byte, a token already


@pytest.mark.slow
def test_distilled_from_a_model_with_the_same_tokens(tiny_data, tmp_path):
    """A teacher with another vocabulary, or an adapter with rows that its base lacks, is refused; the merged one is not."""
    base = save_base(tmp_path / "base", tied=True)
    file = write_tiny_recipe(tmp_path, base, tiny_data)
    short = [TOKENS, "train.max_steps=2", "evaluate.rows=2"]
    result = run(load_recipe(file, short))
    assert result is not None

    def student(**teacher: str) -> list[str]:
        return [
            *short,
            "stage=distill",
            f"distill={json.dumps({'teacher': teacher})}",
            f"output_dir={tmp_path}/student",
        ]

    with pytest.raises(RecipeError, match="4 tokens differ, as ' yes': id 259 of the student, None of the teacher"):
        run(load_recipe(file, student(name_or_path=str(base))))
    plain = student(name_or_path=str(base), adapter_name_or_path=str(result.bundle / "adapter"))
    with pytest.raises(RecipeError, match="has rows for tokens that its base lacks; name its run's merged model"):
        run(load_recipe(file, [*plain, "model.add_tokens=[]"]))
    done = run(load_recipe(file, student(name_or_path=str(result.bundle))))
    assert done is not None and done.manifest["merge_proof"]["max_logit_difference"] < 1e-5


@pytest.mark.slow
def test_a_reward_model(base, tmp_path):
    """Its head is no output layer: only the embedding grows."""
    from tests.reward_runs import reward_recipe

    result = run(reward_recipe(tmp_path, base, "model.add_tokens=[larger, ' indeed']"))
    assert result is not None
    assert result.manifest["merge_proof"]["max_reward_difference"] < 1e-5
    after = load_file(result.bundle / "model.safetensors")
    assert "lm_head.weight" not in after and len(after[ENDS[0]]) == 260
    assert moved_rows(load_file(base / "model.safetensors")[ENDS[0]], after[ENDS[0]]) == [258, 259]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tied", "engine"),
    [(True, None), pytest.param(False, FSDP2, marks=pytest.mark.long)],
    ids=["tied ddp", "untied fsdp2"],
)
def test_two_processes_train_the_same_rows(tied, engine, tiny_data, tmp_path):
    """To rounding: 2 processes with 2 sequences each, and one with 4. AdamW turns a difference of the gradient's last
    bit into up to a step's where the gradient is near 0, hence 1e-4 for steps of 1e-2."""
    base = save_base(tmp_path / "base", tied)
    content = yaml.safe_load(write_tiny_recipe(tmp_path, base, tiny_data).read_text())
    content["model"]["add_tokens"] = ["larger", " yes", "no", "<RWY>"]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(content | {"output_dir": str(tmp_path / "two")}))
    torchrun([ROOT / "scripts/train.py", tmp_path / "two.yaml"], engine)
    one = load_recipe(tmp_path / "tiny.yaml", [TOKENS])
    run(one)
    left, right = (
        load_file(folder / "adapter/adapter_model.safetensors") for folder in (one.output_dir, tmp_path / "two")
    )
    assert left.keys() == right.keys()
    assert max(float((left[name] - right[name]).abs().max()) for name in left) < 1e-4
    told = json.loads((tmp_path / "two/bundle/MANIFEST.json").read_text())
    assert told["merge_proof"]["max_logit_difference"] < 1e-5 and told["merge"]["vocabulary"] == 262
