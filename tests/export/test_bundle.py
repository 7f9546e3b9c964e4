"""The bundle of a finished tiny run: proven, whole, readable by others."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file

from finetune.data.chat import IGNORED, Example
from finetune.errors import GateError
from finetune.export.merge import merge
from finetune.export.parity import ROUNDINGS, compare, logits, prove
from finetune.model.load import Source


@pytest.fixture(scope="module")
def bundle(finished_run):
    return finished_run[1].bundle


def test_manifest_names_every_file_with_its_hash(bundle, finished_run):
    manifest = json.loads((bundle / "MANIFEST.json").read_text())
    files = {f.relative_to(bundle).as_posix() for f in bundle.rglob("*") if f.is_file()} - {"MANIFEST.json"}
    assert files == set(manifest["files"]) >= {
        "model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "recipe.yaml", "data_template.yaml", "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json", "adapter/tokenizer.json",
    }  # fmt: skip
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest
    assert manifest["scores"] == finished_run[1].scores
    assert (manifest["data"]["train_samples"], manifest["data"]["evaluate_samples"]) == (31, 9)
    assert set(manifest["base"]["sha256"]) == {"model.safetensors"}


def test_file_modes_follow_the_umask(bundle, tmp_path):
    """T39: safetensors 0.8 writes 0600."""
    (tmp_path / "new").touch()
    wanted = stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert {stat.S_IMODE(file.stat().st_mode) for file in bundle.rglob("*") if file.is_file()} == {wanted}


def test_bundle_and_adapter_answer_the_same(bundle, tiny_base):
    """AutoModelForCausalLM on the bundle and AutoPeftModelForCausalLM on the adapter: same greedy answer."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle)
    chat = [{"role": "user", "content": "9 1?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answers = [
        model.generate(**ids, max_new_tokens=20, do_sample=False).tolist()
        for model in (
            AutoModelForCausalLM.from_pretrained(bundle),
            AutoPeftModelForCausalLM.from_pretrained(bundle / "adapter"),
        )
    ]
    assert answers[0] == answers[1]
    base = AutoModelForCausalLM.from_pretrained(tiny_base).generate(**ids, max_new_tokens=20, do_sample=False).tolist()
    assert base != answers[0], "the adapter must have an effect for this test to say anything"


def test_the_merge_is_w_plus_scale_b_a(finished_run, tiny_base):
    """W' = W + (lora_alpha / r) B A (Hu et al. 2021, section 4.1), each layer, by hand, from the adapter as trained."""
    recipe, result = finished_run
    base = load_file(tiny_base / "model.safetensors")
    merged = load_file(result.bundle / "model.safetensors")
    lora = load_file(recipe.output_dir / "adapter/adapter_model.safetensors")
    layers = [name.removesuffix(".lora_A.weight") for name in lora if name.endswith(".lora_A.weight")]
    assert len(layers) == 2 * 7
    for layer in layers:
        a, b = lora[f"{layer}.lora_A.weight"].double(), lora[f"{layer}.lora_B.weight"].double()
        name = layer.removeprefix("base_model.model.") + ".weight"
        expected = base[name].double() + recipe.lora.lora_alpha / recipe.lora.r * b @ a
        assert b.abs().max() > 0
        assert float((merged[name].double() - expected).abs().max()) < 1e-7


def test_a_merge_that_is_not_the_adapter_is_refused(finished_run, tiny_base):
    """The proof can fail: against the base (no adapter merged) it does, with the numbers."""
    from transformers import AutoTokenizer

    from finetune.data.chat import ChatEncoder
    from finetune.data.rows import Sample

    messages = ({"role": "user", "content": "9 1?"}, {"role": "assistant", "content": "larger 9\nsame no"})
    example = ChatEncoder(AutoTokenizer.from_pretrained(tiny_base)).encode(Sample({}, messages, "f:1"))[0]
    adapter = finished_run[1].bundle / "adapter"
    with pytest.raises(
        GateError, match=r"merged model is not the adapter \(float32\): max_logit_difference .*limit 0.001"
    ):
        prove(Source(str(tiny_base)), adapter, tiny_base, [example])
    good = prove(Source(str(tiny_base)), adapter, finished_run[1].bundle, [example])
    assert (good["greedy_agreement"], good["positions"]) == (1.0, len(example.ids))


def test_a_model_that_makes_much_of_little_is_held_to_its_own_rounding(finished_run, tiny_base, tmp_path):
    """Logits so large that float32's last bits are above the limit: the same weights pass, by what moving every weight by
    its last bit does to them; weights that are others, if only by a little, do not."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    base, merged, other = (tmp_path / name for name in ("base", "merged", "other"))
    shutil.copytree(tiny_base, base)
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] *= 20_000
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    adapter = finished_run[1].bundle / "adapter"
    shutil.copytree(finished_run[1].bundle, merged, ignore=shutil.ignore_patterns("adapter", "*.safetensors"))
    merge(base, adapter, merged, torch.float32)
    ids = AutoTokenizer.from_pretrained(tiny_base)("9 1? larger 9 same no").input_ids
    example = Example(tuple(ids), (IGNORED, *ids[1:]), "f:1")
    proof = prove(Source(str(base)), adapter, merged, [example])
    assert 1e-3 < proof["max_logit_difference"] <= proof["limits"]["max_logit_difference"]
    assert proof["limits"]["max_logit_difference"] == pytest.approx(
        ROUNDINGS * proof["difference_by_rounding"], rel=1e-2
    )
    assert (proof["limits"]["mean_kl"], proof["limits"]["greedy_agreement"]) == (1e-6, 1.0)
    shutil.copytree(merged, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"] *= 1 + 1e-4
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(GateError, match="max_logit_difference"):
        prove(Source(str(base)), adapter, other, [example])


def test_no_bundle_is_left_when_the_export_fails(tiny_recipe, monkeypatch):
    from finetune.export import bundle as module
    from finetune.run import run

    def fails(*_, **__):
        raise GateError("export stopped: no")

    monkeypatch.setattr(module, "prove", fails)
    recipe = tiny_recipe("train.max_steps=1")
    with pytest.raises(GateError):
        run(recipe)
    assert not [path for path in recipe.output_dir.iterdir() if "bundle" in path.name]
    assert (recipe.output_dir / "adapter/adapter_model.safetensors").is_file()


def test_both_spellings_of_the_configuration(bundle):
    """What transformers 4 and older engines read is there beside what transformers 5 writes."""
    config = json.loads((bundle / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 50000.0
    assert config["torch_dtype"] == config["dtype"] == "float32"
    settings = json.loads((bundle / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["chat_template"] == (bundle / "chat_template.jinja").read_text()
    special = json.loads((bundle / "special_tokens_map.json").read_text())
    assert special["eos_token"] == special["pad_token"] == "<|im_end|>"
    generation = json.loads((bundle / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 257


def test_ctranslate2_serves_the_same_greedy_tokens(bundle, tmp_path):
    """An engine without PyTorch, in float32: same tokens as transformers from the same prompt ids."""
    import ctranslate2
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ctranslate2.converters.TransformersConverter(str(bundle)).convert(str(tmp_path / "ct2"))
    engine = ctranslate2.Generator(str(tmp_path / "ct2"), device="cpu", compute_type="float32", intra_threads=1)
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    model = AutoModelForCausalLM.from_pretrained(bundle)
    for question in ("9 1?", "3 3?", "0 7?", "5 4?"):
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        ours = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
        theirs = engine.generate_batch(
            [tokenizer.convert_ids_to_tokens(ids)], max_length=24, sampling_topk=1, include_prompt_in_result=False,
            end_token=[tokenizer.eos_token_id], return_end_token=True,
        )[0].sequences_ids[0]  # fmt: skip
        assert theirs == ours


def test_compare_counts_positions_by_hand(tiny_base):
    """A model against itself: zero everywhere, every position counted, greedy positions = trained tokens."""
    from transformers import AutoModelForCausalLM

    from finetune.data.chat import IGNORED, Example

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    example = Example((5, 6, 7, 8), (IGNORED, IGNORED, 7, 8), "f:1")
    proof = compare([(logits(model, example), logits(model, example))], [example], "float32")
    assert (proof.max_logit_difference, proof.mean_kl, proof.greedy_agreement) == (0.0, 0.0, 1.0)
    assert (proof.positions, proof.greedy_positions) == (4, 2)
