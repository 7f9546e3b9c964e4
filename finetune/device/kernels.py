"""Fused ops that a device may have in place of several plain ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Kernels:
    """What a device offers; None: nothing. Each is differentiable, and compared with the plain ops before it is used.

    Attributes:
        rms_norm: (x (..., D), weight (D,), epsilon) to x / sqrt(mean(x^2) + epsilon) * weight, of x's dtype.
        swiglu: (gate, up), both (..., I), to silu(gate) * up.
        rotary: (q (B, H, T, D), k (B, G, T, D), cos, sin), the last two (B or 1, 1, T, D), to both turned: pairs are
            (i, i + D/2), as in Llama and most that came after it.
        attention: (q (B, H, T, D), k and v (B, G, T, D), where in T documents begin and the end, scale, window or None) to
            (B, H, T, D), causal within each document.
        lora: whether peft's LoRA layers, and gated MLPs of them, are computed with a backward written by hand.
    """

    rms_norm: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] | None = None
    swiglu: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    rotary: (
        Callable[
            [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
            tuple[torch.Tensor, torch.Tensor],
        ]
        | None
    ) = None
    attention: Callable[..., torch.Tensor] | None = None
    lora: bool = False
