"""The passes over memory between matrix products on a CPU: some rows at a time, in place where that goes.

Each works on whole tensors whose last dimension is the one that counts, and gives new tensors.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

ROWS = 256  # at a time: what a step makes of them stays in the core's cache


def wide(x: torch.Tensor) -> torch.dtype:
    """What sums over a row are computed in."""
    return torch.promote_types(x.dtype, torch.float32)


def norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x r weight of x (N, D) and weight (D,), and r (N, 1), r = 1 / sqrt(mean(x^2) + epsilon)."""
    y, roots = torch.empty_like(x), x.new_empty(len(x), 1, dtype=wide(x))
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS].to(roots.dtype)
        root = torch.linalg.vector_norm(part, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        roots[start : start + ROWS] = root
        torch.mul((part * root).to(x.dtype), weight, out=y[start : start + ROWS])
    return y, roots


def norm_slope(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, roots: torch.Tensor) -> torch.Tensor:
    """dx = r (dy w - x r^2 sum(dy w x) / D)."""
    dx = torch.empty_like(x)
    for start in range(0, len(x), ROWS):
        root, part = roots[start : start + ROWS], x[start : start + ROWS].to(roots.dtype)
        slope = (dy[start : start + ROWS] * weight).to(roots.dtype)
        share = torch.linalg.vecdot(slope, part).unsqueeze(-1).mul_(root.square()).div_(-x.shape[-1])
        dx[start : start + ROWS] = torch.addcmul(slope, part, share).mul_(root)
    return dx


def norm_slope_by_output(dy: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, roots: torch.Tensor) -> torch.Tensor:
    """The same dx = r (dy w - y / w sum(dy y) / D) from y = x r w; the weight is nowhere 0."""
    dx = torch.empty_like(y)
    weight = weight.to(roots.dtype)
    inverse = weight.reciprocal().div_(-y.shape[-1])
    for start in range(0, len(y), ROWS):
        slope, part = dy[start : start + ROWS].to(roots.dtype), y[start : start + ROWS].to(roots.dtype)
        share = torch.linalg.vecdot(slope, part).unsqueeze(-1)
        dx[start : start + ROWS] = torch.addcmul(slope * weight, part * inverse, share).mul_(
            roots[start : start + ROWS]
        )
    return dx


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) up."""
    return F.silu(gate).mul_(up)


def gated_slopes(
    dact: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dgate, dup, and silu(gate) up again, from the derivative by that."""
    silu = F.silu(gate)
    act = silu * up
    return torch.ops.aten.silu_backward(dact * up, gate), silu.mul_(dact), act


def turned(x: torch.Tensor, cos: torch.Tensor, sin1: torch.Tensor, sin2: torch.Tensor) -> torch.Tensor:
    """(x1 cos1 - x2 sin1, x2 cos2 + x1 sin2) of x (..., D), the halves of D."""
    y = torch.mul(x, cos, out=torch.empty_like(x))  # of x's strides
    (x1, x2), (y1, y2) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    y1.addcmul_(x2, sin1, value=-1)
    y2.addcmul_(x1, sin2)
    return y
