#!/usr/bin/env python3
"""Builds a bundle's merged model for ONNX Runtime GenAI, runs it on the CPU and compares with transformers; by hand.

    pip install onnxruntime-genai==0.18.0 onnx onnx-ir
    python scripts/check_onnxruntime.py BUNDLE [--keep FOLDER]

Prompts go in as token ids: its tokenizer is compared on its own, for it splits some texts its own way. Exits with 1 if
a greedy answer differs or a logit is off by 1e-3; other ids are reported, not failed: send ids there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

QUESTIONS = (
    "What is the capital of France?",
    "METAR EDDF 121550Z 24015G27KT 9999 BKN022 12/07 Q1009 NOSIG=",
    "Write a haiku about 12 ships:\n\n1. first\n\n2. second",
    'Explain {"a": [1, 22, 333]} in one sentence.\tThen stop.',
)
TOKENS = 40


def build(bundle: Path, folder: Path) -> float:
    """The engine's own builder, in float32 for the CPU, offline. Returns seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(bundle), "-o", str(folder / "onnx")]
    command += ["-p", "fp32", "-e", "cpu", "-c", str(folder / "cache")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the builder failed: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - start


def answer(engine: Any, ids: list[int]) -> tuple[list[int], list[np.ndarray]]:
    """Greedy tokens and the logits each was chosen from."""
    import onnxruntime_genai

    params = onnxruntime_genai.GeneratorParams(engine)
    params.set_search_options(max_length=len(ids) + TOKENS, do_sample=False, batch_size=1)
    generator = onnxruntime_genai.Generator(engine, params)
    generator.append_tokens(np.array(ids, dtype=np.int32))
    tokens, logits = [], []
    while not generator.is_done():
        logits.append(np.array(generator.get_logits()).reshape(-1, generator.get_logits().shape[-1])[-1])
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    return tokens, logits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the built model; default: a temporary one")
    asked = parser.parse_args()
    import onnxruntime_genai
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(asked.bundle)
    model = AutoModelForCausalLM.from_pretrained(asked.bundle, dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        print(f"built in {build(asked.bundle, folder):.1f} s")
        engine = onnxruntime_genai.Model(str(folder / "onnx"))
        own = onnxruntime_genai.Tokenizer(engine)
        same, largest, ids_same = 0, 0.0, 0
        for question in QUESTIONS:
            chat = [{"role": "user", "content": question}]
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False).input_ids
            ids_same += own.encode(text).tolist() == ids
            tokens, logits = answer(engine, ids)
            with torch.inference_mode():
                reference = model(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1].numpy()  # (answer, V)
            same += tokens == reference.argmax(-1).tolist()
            largest = max([largest, *(float(np.abs(a - b).max()) for a, b in zip(logits, reference, strict=True))])
    count = len(QUESTIONS)
    print(
        f"greedy answers equal {same}/{count}; max |dlogit| {largest:.1e}; its own tokenizer's ids {ids_same}/{count}"
    )
    return int(same < count or largest >= 1e-3)


if __name__ == "__main__":
    sys.exit(main())
