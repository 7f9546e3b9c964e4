"""What the checks share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

NPU = "npu:0"


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Filled, at the end, with what was counted inside."""
    import torch_npu

    before, found = torch_npu.emulator.counts(), {}
    yield found
    found |= {kind: number - before[kind] for kind, number in torch_npu.emulator.counts().items()}


@contextmanager
def on_soc(name: str) -> Iterator[None]:
    import torch_npu

    before, torch_npu.hardware.SOC = torch_npu.hardware.SOC, name
    try:
        yield
    finally:
        torch_npu.hardware.SOC = before


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
