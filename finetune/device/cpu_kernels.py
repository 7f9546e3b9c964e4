"""What the CPU has in place of several plain ops: the same formulas with a backward written by hand.

torch has no fused kernels for these on a CPU. What is saved are passes over memory: autograd's own chain of small steps keeps
and rereads float32 copies that these need for some rows at a time only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from finetune.device.cpu_attention import document_attention
from finetune.device.elementwise import gated, gated_slopes, norm, norm_slope, norm_slope_by_output, turned
from finetune.device.kernels import Kernels

SMALLEST = 2.0**-10  # of a norm's weight, for its input to be had of its output in any dtype


class _RmsNorm(torch.autograd.Function):
    """y = x r w with r = 1 / sqrt(mean(x^2) + epsilon) (Zhang and Sennrich 2019, eq. 4), the mean in float32.

    Kept for the backward pass is y, which the layers that read it keep too, and not x, which nothing else does: y / w is x r.
    (So does NVIDIA's apex with `memory_efficient`.) Where w trains, or is so small that y / w would not be x r, it is x.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y, roots = norm(rows, weight, epsilon)
        ctx.from_output = not weight.requires_grad and bool((weight.abs() >= SMALLEST).all())
        y = y.view(x.shape)
        ctx.save_for_backward(y if ctx.from_output else rows, weight, roots)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, weight, roots = ctx.saved_tensors
        rows, slopes = kept.reshape(-1, kept.shape[-1]), gradient.reshape(-1, kept.shape[-1])
        if ctx.from_output:
            return norm_slope_by_output(slopes, rows, weight, roots).view(gradient.shape), None, None
        dx = norm_slope(slopes, rows, weight, roots).view(gradient.shape)
        dw = (slopes * (rows * roots)).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return dx, dw, None


class _SwiGlu(torch.autograd.Function):
    """silu(gate) up (Shazeer 2020, eq. 6, without the projections)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return gated(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gated_slopes(gradient, *ctx.saved_tensors)[:2]


class _Rotary(torch.autograd.Function):
    """(x1 cos1 - x2 sin1, x2 cos2 + x1 sin2), the halves of each head (Su et al. 2021, eq. 34); cos1 = cos2 in most models.

    Its backward turns the other way, sin1 and sin2 exchanged.
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        sines = sin.chunk(2, dim=-1)
        return turned(q, cos, *sines), turned(k, cos, *sines)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: torch.Tensor, dk: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        back = [-half for half in reversed(sin.chunk(2, dim=-1))]
        return turned(dq, cos, *back), turned(dk, cos, *back), None, None


def kernels() -> Kernels:
    """For `Device.kernels`."""
    return Kernels(_RmsNorm.apply, _SwiGlu.apply, _Rotary.apply, document_attention, lora=True)
