#!/usr/bin/env python3
"""What each GGUF type costs: a bundle's merged model and its base, converted, run by llama.cpp, compared in float32.

    scripts/get_llama_cpp_converters.sh
    python scripts/bench_gguf.py runs/metar_decode/bundle --rows 4 f32 f16 bf16 q8_0     # q4_k_m...: with llama-quantize

Takes the bundle's own recipe and held-out rows; prints a Markdown row for each model and type.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from transformers import AutoTokenizer

from finetune.data.chat import ChatEncoder
from finetune.export.gguf import convert
from finetune.export.quantised import measure_gguf
from finetune.inputs import load_data
from finetune.recipefile import load_recipe

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("types", nargs="+")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/meteorology/metar_decode.yaml")
    parser.add_argument("--converter", type=Path, default=ROOT / ".converters")
    asked = parser.parse_args()
    recipe = load_recipe(asked.recipe, [f"evaluate.rows={asked.rows}"])
    encoder = ChatEncoder(AutoTokenizer.from_pretrained(asked.bundle))
    examples = [example for sample in load_data(recipe).evaluate for example in encoder.encode(sample)]
    print("| model | type | MB | mean KL | same next token | same answers | max dlogprob | convert s | run s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for label, model in (("merged", asked.bundle), ("base", asked.bundle / "base")):
        for kind in asked.types:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / f"{kind}.gguf"
                start = time.perf_counter()
                convert(model, file, kind, asked.converter)
                converted = time.perf_counter()
                served = measure_gguf(file, model, examples)
                print(
                    f"| {label} | {kind} | {file.stat().st_size / 1e6:.0f} | {served.mean_kl:.1e} | "
                    f"{served.greedy_agreement:.3f} | {served.answers_equal:.2f} | {served.max_logprob_difference:.1e} | "
                    f"{converted - start:.0f} | {time.perf_counter() - converted:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
