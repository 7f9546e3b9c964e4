"""One training run of our loop for bench_train.py, in a process of its own: `finetune train` up to the adapter.

    python scripts/bench_train_ours.py RECIPE DEVICE [KEY=VALUE ...]
    python scripts/bench_train_ours.py matmul DEVICE DTYPE      # the machine's peak, in FLOP/s

The loop prints its own line after each step; the last line is the peak of the process's memory.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.bench_train_peer import peak_bytes  # noqa: E402

SIDE = {"cpu": 2048}  # of the square matrices; 8192 elsewhere
REPEATS = 12


def train(recipe: str, device: str, further: list[str]) -> None:
    from finetune.recipefile import load_recipe
    from finetune.run import Extent, run

    run(load_recipe(Path(recipe), further), extent=Extent(until="adapter"))
    print(f"peak {peak_bytes(device)}", flush=True)


def matmul(device: str, dtype: str) -> None:
    """The best of some products of two square matrices, 2 n^3 FLOP each, as FLOP/s."""
    import torch

    n = SIDE.get(device, 8192)
    a = torch.randn(n, n).to(device, getattr(torch, dtype))
    b, best = a.T.contiguous(), float("inf")
    for _ in range(REPEATS):
        _wait(device)
        began = time.perf_counter()
        torch.matmul(a, b)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    print(f"matmul {2 * n**3 / best}", flush=True)


def _wait(device: str) -> None:
    if device != "cpu":
        import torch

        torch.accelerator.synchronize()


if __name__ == "__main__":
    if sys.argv[1] == "matmul":
        matmul(sys.argv[2], sys.argv[3])
    else:
        train(sys.argv[1], sys.argv[2], sys.argv[3:])
