"""What the CPU has in place of several plain ops: the same formulas with a backward written by hand.

torch has no fused kernels for these on a CPU. What is saved are passes over memory: autograd's own chain of small steps keeps
and rereads float32 copies that these need for some rows at a time only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from finetune.device.cpu_attention import document_attention
from finetune.device.kernels import Kernels

ROWS = 256  # so many at a time: what a step makes of them stays in the core's cache


class _RmsNorm(torch.autograd.Function):
    """y = x r w with r = 1 / sqrt(mean(x^2) + epsilon) (Zhang and Sennrich 2019, eq. 4), the mean in float32.

    With s = sum(dy w x): dx = r (dy w - x r^2 s / D); dw = sum over rows of dy x r.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        rows, width = x.reshape(-1, x.shape[-1]), x.shape[-1]
        y = torch.empty_like(rows)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        roots = torch.empty(len(rows), 1, dtype=wide)
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS].to(wide)
            root = torch.linalg.vector_norm(part, dim=-1, keepdim=True).square_().div_(width).add_(epsilon).rsqrt_()
            roots[start : start + ROWS] = root
            torch.mul((part * root).to(x.dtype), weight, out=y[start : start + ROWS])
        ctx.save_for_backward(x, weight, roots)
        return y.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, roots = ctx.saved_tensors
        rows, slopes = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, x.shape[-1])
        dx = torch.empty_like(rows)
        for start in range(0, len(rows), ROWS):
            root = roots[start : start + ROWS]
            part = rows[start : start + ROWS].to(roots.dtype)
            slope = (slopes[start : start + ROWS] * weight).to(roots.dtype)
            share = torch.linalg.vecdot(slope, part).unsqueeze(-1).mul_(root.square()).div_(-x.shape[-1])
            dx[start : start + ROWS] = torch.addcmul(slope, part, share).mul_(root)
        dw = (slopes * (rows * roots)).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return dx.view_as(x), dw, None


class _SwiGlu(torch.autograd.Function):
    """silu(gate) up (Shazeer 2020, eq. 6, without the projections)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


class _Rotary(torch.autograd.Function):
    """(x1 cos1 - x2 sin1, x2 cos2 + x1 sin2), the halves of each head (Su et al. 2021, eq. 34); cos1 = cos2 in most models."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        (sin1, sin2) = sin.chunk(2, dim=-1)
        return _turned(q, cos, sin1, sin2), _turned(k, cos, sin1, sin2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: torch.Tensor, dk: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        back = [-half for half in reversed(sin.chunk(2, dim=-1))]
        return _turned(dq, cos, *back), _turned(dk, cos, *back), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin1: torch.Tensor, sin2: torch.Tensor) -> torch.Tensor:
    y = torch.mul(x, cos, out=torch.empty_like(x))  # of x's strides
    (x1, x2), (y1, y2) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    y1.addcmul_(x2, sin1, value=-1)
    y2.addcmul_(x1, sin2)
    return y


def kernels() -> Kernels:
    """For `Device.kernels`."""
    return Kernels(_RmsNorm.apply, _SwiGlu.apply, _Rotary.apply, document_attention, lora=True)
