"""What the output head and the loss cost, forward and backward: all logits at once against chunks (model/token_logps.py).

    python scripts/bench_head.py                              # SmolLM2's head, 1,024 trained positions, bfloat16, a CPU
    python scripts/bench_head.py --chunks 2 4 8 16 32         # million logits at a time
    python scripts/bench_head.py --positions 4096 --width 4096 --vocabulary 151936 --device cuda

A Llama without layers, frozen: what is timed is an embedding, a norm, the head and the loss. The ways take turns, times
are medians; what each adds to the peak of memory is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch.nn import functional as F

from finetune.device.table import DEVICES
from finetune.model import token_logps
from finetune.model.head import TrainedPositions

PLAIN, OURS = "all at once", "chunks"


def made(given: argparse.Namespace) -> TrainedPositions:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=given.vocabulary, hidden_size=given.width, num_hidden_layers=0, tie_word_embeddings=True,
        max_position_embeddings=given.positions + 1,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).to(given.device, getattr(torch, given.dtype)).requires_grad_(False)
    model.enable_input_require_grads()
    return TrainedPositions(model.train())


def step(model: TrainedPositions, way: str, ids: torch.Tensor) -> float:
    """A mean loss and its backward pass, as stage sft makes them; the loss."""
    kept = torch.arange(ids.shape[1] - 1, device=ids.device)
    if way == PLAIN:
        logits = model(ids, None, kept)
        value = F.cross_entropy(logits.float(), ids[0, 1:], reduction="sum")
        correct = (logits.detach().argmax(-1) == ids[0, 1:]).sum()
    else:
        logps, likeliest = model(ids, None, kept, targets=ids[0, 1:])
        value, correct = -logps.sum(), likeliest.sum()
    (value / len(kept)).backward()
    return float(value.detach()) / len(kept) + 0 * float(correct)


def tell_memory(given: argparse.Namespace) -> None:
    """Prints by how many bytes two steps raise the peak."""
    model, ids = made(given), torch.randint(given.vocabulary, (1, given.positions + 1)).to(given.device)
    before = DEVICES[given.device].peak_memory()
    for _ in range(2):
        step(model, given.memory, ids)
    print(DEVICES[given.device].peak_memory() - before)


def added(given: argparse.Namespace, way: str, chunk: int) -> int:
    same = [f"--{name}={getattr(given, name)}" for name in ("positions", "width", "vocabulary", "dtype", "device")]
    call = [sys.executable, __file__, *same, f"--memory={way}", "--chunks", str(chunk / 2**20)]
    return int(subprocess.run(call, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--chunks", type=float, nargs="+", default=[token_logps.CHUNK / 2**20])
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    DEVICES[given.device].prepare()
    chunks = [int(chunk * 2**20) for chunk in given.chunks]
    if given.memory:
        token_logps.CHUNK = chunks[0]
        tell_memory(given)
        return
    ways = [(PLAIN, 0), *((OURS, chunk) for chunk in chunks)]
    # First: Linux counts a parent's memory at the start of a process into that one's peak.
    more = {way: added(given, way[0], way[1] or 1) / 2**20 for way in ways}
    model, ids = made(given), torch.randint(given.vocabulary, (1, given.positions + 1)).to(given.device)
    times: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    losses = {}
    for turn in range(given.repeats + 1):
        for name, chunk in ways:
            token_logps.CHUNK = chunk or token_logps.CHUNK
            start = time.perf_counter()
            losses[name, chunk] = step(model, name, ids)
            times[name, chunk] += [time.perf_counter() - start] if turn else []
    print(f"N {given.positions}, D {given.width}, V {given.vocabulary}, {given.dtype} on {given.device}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}")  # fmt: skip
    print(f"{'way':<14}{'rows':>6}{'ms':>9}{'ratio':>7}{'added MiB':>11}{'loss':>10}")
    plain = statistics.median(times[ways[0]])
    for name, chunk in ways:
        token_logps.CHUNK = chunk or token_logps.CHUNK
        rows = token_logps.rows_at_once(given.width, given.vocabulary) if chunk else given.positions
        middle, extra = statistics.median(times[name, chunk]), more[name, chunk]
        print(
            f"{name:<14}{rows:>6}{1000 * middle:>9.1f}{plain / middle:>7.2f}{extra:>11.0f}{losses[name, chunk]:>10.4f}"
        )


if __name__ == "__main__":
    main()
