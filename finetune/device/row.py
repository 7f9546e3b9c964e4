"""What one row of the device table says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finetune.device.kernels import Kernels
from finetune.device.onednn import Product

if TYPE_CHECKING:
    import torch


def _nothing() -> None:
    """Where a device needs nothing done."""


@dataclass(frozen=True)
class Device:
    """One row: what a kind of device can do and what `auto` means on it.

    Attributes:
        dtypes: allowed for the base's weights, best first. No float16: its gradients need loss scaling.
        attention: allowed `attn_implementation` to transformers' word for it, the best one for training first.
        attention_instead: what to take where the recipe asks for another one, and why.
        generation_attention: the best one for generating, when the recipe leaves it open.
        auto_micro_batch: sequences per forward pass when the recipe leaves `micro_batch_size` open.
        backend: of torch.distributed, through which the processes speak.
        why_not: why there is none on this machine; "" where there is one.
        chip: the name of the one in use, None where it has none.
        bfloat16: whether this very chip computes it at a speed worth having; imitates_bfloat16: or at all.
        peak_memory: bytes in use at most so far. memory: bytes it has in all.
        prepare: called once before anything is computed, when the process has its device.
        deterministic: variables that its libraries want for the same bits each time; read as the device is first used.
        give_back: returns memory that is free but held to the system, between two parts of a run.
        explain: what an error of the device's runtime means and what to do; None where torch's own words are enough.
        kernels: fused ops that it has; none by default.
        packed_linear: weight (O, I), bias, rows -> a quicker linear layer for so many rows, or None (device/onednn.py).
        attend: queries, keys, values, mask to add, scale -> attention and the log of its sum of exponentials, if it tells
            that (evaluate/beginning.py).
        float64: whether it computes in it; sums are float32 elsewhere.
        compiles: whether torch.compile is worth trying.
    """

    name: str
    dtypes: tuple[str, ...]
    attention: Mapping[str, str]
    generation_attention: str
    auto_micro_batch: int
    backend: str
    why_not: Callable[[], str]
    chip: Callable[[], str | None]
    bfloat16: Callable[[], bool]
    peak_memory: Callable[[], int]
    memory: Callable[[], int]
    prepare: Callable[[], None] = _nothing
    give_back: Callable[[], None] = _nothing
    explain: Callable[[str], str] | None = None
    kernels: Callable[[], Kernels] = Kernels
    packed_linear: Callable[[torch.Tensor, torch.Tensor | None, int], Product | None] | None = None
    attend: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None
    attention_instead: str = ""
    imitates_bfloat16: bool = True
    deterministic: Mapping[str, str] = field(default_factory=dict)
    float64: bool = True
    compiles: bool = True

    def available(self) -> bool:
        """Whether there is one on this machine."""
        return not self.why_not()
