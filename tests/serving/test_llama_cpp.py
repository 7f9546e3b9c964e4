"""The exported SmolLM2 as GGUF files in llama.cpp: merged, adapter on its base, and quantised."""

from __future__ import annotations

import pytest
from gguf import GGUFReader

from finetune.data.chat import ChatEncoder
from finetune.errors import GateError, RecipeError
from finetune.export.gguf import convert, convert_adapter
from finetune.export.quantised import prove_gguf, run_gguf
from tests.serving.conftest import STOP

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(run_of_three_steps, converters, tmp_path_factory):
    """merged.gguf, base.gguf and adapter.gguf in float32, with what convert said of the first."""
    bundle, folder = run_of_three_steps[1].bundle, tmp_path_factory.mktemp("gguf")
    facts = convert(bundle, folder / "merged.gguf", "f32", converters)
    convert(bundle / "base", folder / "base.gguf", "f32", converters)
    convert_adapter(bundle / "adapter", bundle / "base", folder / "adapter.gguf", "f32", converters)
    return folder, facts


@pytest.fixture(scope="module")
def examples(samples, tokenizer):
    """Two held-out conversations, shortened to 24 answer tokens: enough to tell models apart."""
    from dataclasses import replace

    encoded = [example for sample in samples[:2] for example in ChatEncoder(tokenizer).encode(sample)]
    first = [next(i for i, label in enumerate(example.labels) if label >= 0) for example in encoded]
    return [
        replace(example, ids=example.ids[: start + 24], labels=example.labels[: start + 24])
        for example, start in zip(encoded, first, strict=True)
    ]


def test_the_merged_file_says_what_the_folder_says(files, tokenizer):
    folder, facts = files
    assert facts == {
        "type": "f32", "architecture": "llama", "tensors": 272, "parameters": 134515008, "vocabulary": 49152,
        "pre_tokenizer": "smollm", "eos_token_id": STOP,
    }  # fmt: skip
    reader = GGUFReader(str(folder / "merged.gguf"))
    assert reader.get_field("tokenizer.chat_template").contents() == tokenizer.chat_template
    assert reader.get_field("general.name").contents() == "merged"


def test_same_template_same_ids_same_stop(files, run_of_three_steps, samples, prompts, tokenizer):
    """Messages rendered and split by llama.cpp itself are our prompts; the answer ends where transformers ends it."""
    folder, _ = files
    messages = [list(sample.prompt) for sample in samples]
    texts = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in messages]
    question = {"ids": prompts[0], "start": len(prompts[0]), "end": len(prompts[0]), "greedy": 160}
    said = run_gguf(folder / "merged.gguf", None, [question], texts, messages)
    assert said["rendered"] == texts
    assert said["ids"] == prompts
    answer = said["greedy"][0]
    assert answer["stopped"]
    from transformers import AutoModelForCausalLM

    from tests.serving.test_smollm2 import greedy

    model = AutoModelForCausalLM.from_pretrained(run_of_three_steps[1].bundle)
    expected = greedy(model, prompts[0], 160)
    assert expected[-1] == STOP
    assert [token for token in answer["ids"] if token != STOP] == expected[:-1]


def test_merged_file_is_the_merged_model(files, run_of_three_steps, examples):
    proof = prove_gguf(files[0] / "merged.gguf", run_of_three_steps[1].bundle, examples, "f32")
    assert (proof["conversations"], proof["positions"], proof["top"]) == (2, 48, 64)
    assert proof["greedy_agreement"] == proof["answers_equal"] == 1.0
    assert proof["max_logprob_difference"] < 1e-3
    assert proof["mean_kl"] < 1e-5


def test_adapter_file_on_the_base_is_the_merged_model(files, run_of_three_steps, examples):
    folder, _ = files
    merged = run_of_three_steps[1].bundle
    proof = prove_gguf(folder / "base.gguf", merged, examples, "f32", folder / "adapter.gguf")
    assert proof["greedy_agreement"] == proof["answers_equal"] == 1.0
    assert proof["max_logprob_difference"] < 1e-3


def test_base_without_the_adapter_is_told_apart(files, run_of_three_steps, examples):
    """Three steps of training are enough to be missed: an adapter that is not applied fails the proof."""
    with pytest.raises(GateError, match=r"base.gguf run by llama.cpp is not the merged model: mean_kl .*, limit 1e-05"):
        prove_gguf(files[0] / "base.gguf", run_of_three_steps[1].bundle, examples, "f32")


def test_q8_0_stays_in_its_budget_and_is_not_f32(files, run_of_three_steps, examples, converters):
    """Eight bits cost more than the order of additions: the f32 limits refuse them, their own do not."""
    file, merged = files[0] / "q8_0.gguf", run_of_three_steps[1].bundle
    convert(merged, file, "q8_0", converters)
    proof = prove_gguf(file, merged, examples, "q8_0")
    assert 1e-4 < proof["mean_kl"] < 3e-2
    assert proof["max_logprob_difference"] > 1e-2
    with pytest.raises(RecipeError, match=r"q8_0.gguf: exists; it is not overwritten"):
        convert(merged, file, "q8_0", converters)


def test_a_broken_file_is_the_engine_s_refusal(files, run_of_three_steps, examples):
    file = files[0] / "half.gguf"
    file.write_bytes((files[0] / "merged.gguf").read_bytes()[:100_000_000])
    with pytest.raises(GateError, match=r"half.gguf: llama.cpp died of it"):
        prove_gguf(file, run_of_three_steps[1].bundle, examples, "f32")
