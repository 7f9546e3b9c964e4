"""SmolLM2-135M-Instruct itself: ids, weights, and a bundle that other engines serve. Minutes, so marked slow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.serving.battery import SMOLLM2
from tests.serving.conftest import STOP

pytestmark = pytest.mark.slow


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


@pytest.fixture(scope="module")
def answers(run_of_three_steps, prompts) -> list[list[int]]:
    """What transformers makes of the merged folder."""
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(run_of_three_steps[1].bundle)
    assert merged.dtype == torch.float32
    return [greedy(merged, ids) for ids in prompts]


def test_the_adapter_on_its_base_answers_like_the_merged_model(run_of_three_steps, prompts, answers):
    from peft import AutoPeftModelForCausalLM

    adapter = AutoPeftModelForCausalLM.from_pretrained(run_of_three_steps[1].bundle / "adapter", dtype=torch.float32)
    assert [greedy(adapter, ids) for ids in prompts] == answers
    with adapter.disable_adapter():
        assert [greedy(adapter, ids) for ids in prompts] != answers


def test_ctranslate2_gives_the_same_logits_and_stops(run_of_three_steps, prompts, answers, tmp_path):
    """An engine without PyTorch, in float32: greedy tokens of eight held-out reports, every logit of every position."""
    import ctranslate2
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bundle = run_of_three_steps[1].bundle
    ctranslate2.converters.TransformersConverter(str(bundle)).convert(str(tmp_path / "ct2"))
    engine = ctranslate2.Generator(str(tmp_path / "ct2"), device="cpu", compute_type="float32", intra_threads=1)
    tokens = AutoTokenizer.from_pretrained(bundle).convert_ids_to_tokens
    served = engine.generate_batch(
        [tokens(ids) for ids in prompts], max_length=40, sampling_topk=1, include_prompt_in_result=False, end_token=[STOP],
        return_end_token=True,
    )  # fmt: skip
    assert [result.sequences_ids[0] for result in served] == answers

    model = AutoModelForCausalLM.from_pretrained(bundle, attn_implementation="eager").eval()
    for prompt, answer in zip(prompts, answers, strict=True):
        theirs = torch.tensor(np.array(engine.forward_batch([prompt + answer])))[0]  # (T, V)
        with torch.inference_mode():
            ours = model(torch.tensor([prompt + answer])).logits[0]
        assert theirs.shape == ours.shape
        assert float((theirs - ours).abs().max()) < 1e-3


def test_mistral_rs_serves_the_bundle_and_the_adapter(run_of_three_steps, samples, prompts):
    """A Rust engine with its own loader, tokenizer and template: the same text from the same messages."""
    from mistralrs import Architecture, ChatCompletionRequest, LoraAdapter, ModelDType, Runner, Which
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, result = run_of_three_steps
    tokenizer = AutoTokenizer.from_pretrained(result.bundle)
    samples, prompts = list(samples)[:4], prompts[:4]
    model = AutoModelForCausalLM.from_pretrained(result.bundle)
    expected = [tokenizer.decode(greedy(model, ids, 24), skip_special_tokens=True) for ids in prompts]
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
