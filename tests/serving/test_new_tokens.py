"""SmolLM2 out of a GGUF file with new tokens, trained, merged, converted and run by llama.cpp: the same ids there."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from finetune.export.quantised import run_gguf
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

WORDS = (" CAVOK", "<RWY>", "inhg", "雷暴")  # ids 49152 to 49155, right behind the base's


def test_new_tokens_in_llama_cpp(tmp_path, converters):
    """Two steps of the METAR recipe in float32. The f32 file is held to the merged model to 1e-3 of any logprob (the
    limits of export/quantised.py, which also compares ids); bundle/base keeps the base's own 49,152 rows."""
    targets = json.dumps([{"engine": "llama.cpp", "types": ["f32"], "converter": str(converters)}])
    recipe = load_recipe(
        ROOT / "recipes/meteorology/metar_decode.yaml",
        [
            f"output_dir={tmp_path}/run", "model.dtype=float32", "train.max_steps=2", "train.global_batch_size=4",
            "train.warmup_ratio=0.0", "train.torch_compile=false", "evaluate.rows=2", "evaluate.max_new_tokens=8",
            "gate.min={}", "gate.better_than_base=false", "export.parity_rows=2",
            f"model.add_tokens={json.dumps(WORDS)}", f"export.targets={targets}",
        ],
    )  # fmt: skip
    torch.set_num_threads(2)
    try:
        result = run(recipe)
    finally:
        torch.set_num_threads(1)
    assert result is not None
    before, after = (
        load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
        for folder in (result.bundle / "base", result.bundle)
    )
    assert (len(before), len(after)) == (49152, 49156)
    assert torch.equal(before, after[:49152])
    (served,) = result.manifest["serving"]
    (told,) = served["converted"].values()
    assert told["file"]["vocabulary"] == 49156 and told["proof"]["answers_equal"] == 1.0

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(result.bundle)
    texts = ["ZGSZ 230500Z CAVOK<RWY>15 inhg 29.92inhg 雷暴CAVOK", "<|im_start|>user\n<RWY><|im_end|>"]
    ours = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert [sum(id >= 49152 for id in ids) for ids in ours] == [5, 1]
    messages = [[{"role": "user", "content": texts[0]}]]
    (file,) = result.bundle.glob("*/**/*.gguf")
    said = run_gguf(file, None, [], texts, messages)
    assert said["ids"] == ours
    assert said["rendered"] == [tokenizer.apply_chat_template(messages[0], tokenize=False, add_generation_prompt=True)]
