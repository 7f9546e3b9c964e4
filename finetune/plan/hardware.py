"""What is computed on: a literal table of hardware, and the machine at hand, whose CPU is measured in a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from finetune.errors import RecipeError

GIB = 1 << 30


@dataclass(frozen=True)
class Efficiency:
    """What of a device's peaks a training step gets, and what its allocator wastes.

    Attributes:
        products: share of the matrix peak while matrices are multiplied, by dtype.
        traffic: share of the memory bandwidth while everything else is read and written.
        wasted: what the allocator holds beside the activations that are alive, as a share of them.
        launch: seconds that the host needs to start an operation; a step is never faster than all of them.
        source: where these come from.
    """

    products: Mapping[str, float]
    traffic: float
    wasted: float
    launch: float
    source: str


ASSUMED = Efficiency(
    {"bfloat16": 0.5, "float32": 0.8}, 0.7, 0.1, 6e-6,
    "assumed, never measured: none of this hardware was at hand; take the time as a rough lower bound",
)  # fmt: skip
# Layers of a few hundred columns get a third of AMX's peak. glibc's heap, which is never trimmed (device/cpu.py), ends
# a third larger than what is alive: lengths change from step to step, and holes do not fit.
OF_CPU = Efficiency(
    {"bfloat16": 0.34, "float32": 0.9},
    1.0,
    0.35,
    0.0,
    "fitted to CPU runs of SmolLM2-135M, see docs/benchmarks/plan.md",
)


@dataclass(frozen=True)
class Hardware:
    """One device.

    Attributes:
        device: the row of the device table that it is.
        memory: bytes in all.
        flops: dense peak of matrix products a second, by dtype.
        bandwidth: of its memory, bytes a second.
        reserve: bytes that are gone before the first tensor: context, kernels, libraries; on a CPU the process.
        source: of the figures.
    """

    name: str
    device: str
    memory: int
    flops: Mapping[str, float]
    bandwidth: float
    reserve: int
    source: str
    efficiency: Efficiency = ASSUMED


_CONTEXT = GIB  # CUDA's or CANN's context with loaded kernels, and the libraries' workspaces; assumed
HARDWARE = {
    row.name: row
    for row in (
        Hardware(
            "h100-80g", "cuda", 80 * 10**9, {"bfloat16": 989.4e12, "float32": 67e12}, 3.35e12, _CONTEXT,
            "NVIDIA H100 SXM5: datasheet (80 GB, 3.35 TB/s), architecture whitepaper (dense)",
        ),
        Hardware(
            "h200-141g", "cuda", 141 * 10**9, {"bfloat16": 989.4e12, "float32": 67e12}, 4.8e12, _CONTEXT,
            "NVIDIA H200 SXM: datasheet (141 GB, 4.8 TB/s; products as H100)",
        ),
        Hardware(
            "a100-80g", "cuda", 80 * 10**9, {"bfloat16": 312e12, "float32": 19.5e12}, 2.039e12, _CONTEXT,
            "NVIDIA A100 SXM4 80 GB: datasheet (312 TFLOP/s dense, 2,039 GB/s)",
        ),
        Hardware(
            "rtx4090-24g", "cuda", 24 * 10**9, {"bfloat16": 165.2e12, "float32": 82.6e12}, 1.008e12, _CONTEXT,
            "NVIDIA GeForce RTX 4090: Ada architecture whitepaper (dense, float32 sums)",
        ),
        Hardware(
            "910b-64g", "npu", 64 * 10**9, {"bfloat16": 280e12, "float32": 70e12}, 1.38e12, _CONTEXT,
            "Ascend 910B: ai.gitee.com/docs (64 GB, 280 TFLOP/s in bfloat16); bandwidth by CANN's platform_config "
            "(Ascend910B2C.ini: 24 cores x 32 bytes x 1.8 GHz); float32 taken for a quarter",
        ),
    )
}  # fmt: skip
CPU = "cpu"  # the machine at hand, whatever accelerators it has


def names() -> list[str]:
    """What --hardware takes."""
    return [*HARDWARE, CPU]


def device_of(name: str) -> str:
    """The row of the device table that a name stands for."""
    return HARDWARE[name].device if name in HARDWARE else CPU


def find(name: str | None, asked: str) -> Hardware:
    """The row of a name, or the machine at hand.

    Args:
        name: of --hardware. asked: the recipe's `device`, which decides where there is no name.

    Raises:
        RecipeError: no such hardware; an accelerator at hand that the table does not have.
    """
    if name in HARDWARE:
        return HARDWARE[name]
    if name is not None and name != CPU:
        raise RecipeError(f"--hardware: {name!r} is not known; allowed: {', '.join(names())}")
    from finetune.device import DEVICES, choose

    device = DEVICES["cpu"] if name == CPU else choose(asked)
    if device.name == "cpu":
        return this_cpu()
    known = [row for row in HARDWARE.values() if row.device == device.name and _is_chip(row.name, device.chip() or "")]
    if not known:
        rows = ", ".join(row for row in HARDWARE if HARDWARE[row].device == device.name)
        raise RecipeError(f"--hardware: {device.chip()!r} is not in the table; name the nearest one: {rows}, or cpu")
    return replace(known[0], memory=device.memory())


def _is_chip(row: str, chip: str) -> bool:
    """Whether a chip's name (`NVIDIA H100 80GB HBM3`, `Ascend910B3`) is that of a row (`h100-80g`)."""
    return row.split("-")[0].removeprefix("rtx") in chip.lower().replace(" ", "")


def this_cpu() -> Hardware:
    """The CPU of this machine with the threads that torch takes: products and copies measured, a second in all.

    Peaks only: what a training step gets of them is `OF_CPU`.
    """
    import torch

    from finetune.device import DEVICES

    cpu = DEVICES["cpu"]
    dtypes = ("bfloat16", "float32") if cpu.bfloat16() else ("float32",)
    flops = {dtype: gemm_flops(getattr(torch, dtype)) for dtype in dtypes}
    if "bfloat16" not in flops:  # imitated, a hundred times slower on some chips
        flops["bfloat16"] = gemm_flops(torch.bfloat16, size=128, seconds=0.05)
    bandwidth = copy_bandwidth()
    threads = torch.get_num_threads()
    said = f"this machine, {threads} thread(s), measured now: " + ", ".join(
        f"{flops[dtype] / 1e9:,.0f} GFLOP/s in {dtype}" for dtype in dtypes
    )
    return Hardware(
        CPU, "cpu", cpu.memory(), flops, bandwidth, RESERVE_OF_CPU, f"{said}, {bandwidth / 1e9:.1f} GB/s copied", OF_CPU
    )


# A process with torch, transformers and peft imported, a tokenizer and the encoded rows: what a run of a model of
# thousands of parameters takes.
RESERVE_OF_CPU = 665 << 20


def gemm_flops(dtype: object, size: int = 1024, seconds: float = 0.3) -> float:
    """FLOP/s of a square matrix product, the best of some repetitions: other work on the machine only takes away."""
    import torch

    left = torch.ones(size, size, dtype=dtype)  # type: ignore[call-overload]
    right = left.clone()
    return 2.0 * size**3 / _fastest(lambda: left @ right, seconds)


def copy_bandwidth(size: int = 64 << 20, seconds: float = 0.2) -> float:
    """Bytes read and written a second by a copy that does not fit into the caches."""
    import torch

    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    return 2.0 * size / _fastest(lambda: target.copy_(source), seconds)


def _fastest(work: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest run of `work`, repeated for some time."""
    work()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
