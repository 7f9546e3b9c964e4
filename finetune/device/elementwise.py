"""The passes over memory between matrix products, as functions of rows: with torch's own kernels, or compiled, one loop each.

Each works on whole tensors whose last dimension is the one that counts, and gives new tensors. Compiling needs a C++ compiler
and some seconds, once a machine; what comes of it is kept by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch.nn import functional as F

ROWS = 256  # at a time with torch's kernels: what a step makes of them stays in the core's cache


@dataclass(frozen=True)
class Elementwise:
    """What comes between products.

    Attributes:
        norm: (x (N, D), weight (D,), epsilon) to x r weight and r (N, 1), r = 1 / sqrt(mean(x^2) + epsilon).
        norm_slope: (dy, x, weight, r) to dx = r (dy w - x r^2 sum(dy w x) / D).
        gated: (gate, up) to silu(gate) up.
        gated_slopes: (dact, gate, up) to dgate, dup, and silu(gate) up again.
        turned: (x (..., D), cos, sin1, sin2) to (x1 cos1 - x2 sin1, x2 cos2 + x1 sin2), halves of D.
    """

    norm: Callable[[torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]
    norm_slope: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    gated: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    gated_slopes: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    turned: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def wide(x: torch.Tensor) -> torch.dtype:
    """What sums over a row are computed in."""
    return torch.promote_types(x.dtype, torch.float32)


# With torch's kernels


def _norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    y, roots = torch.empty_like(x), x.new_empty(len(x), 1, dtype=wide(x))
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS].to(roots.dtype)
        root = torch.linalg.vector_norm(part, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        roots[start : start + ROWS] = root
        torch.mul((part * root).to(x.dtype), weight, out=y[start : start + ROWS])
    return y, roots


def _norm_slope(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, roots: torch.Tensor) -> torch.Tensor:
    dx = torch.empty_like(x)
    for start in range(0, len(x), ROWS):
        root, part = roots[start : start + ROWS], x[start : start + ROWS].to(roots.dtype)
        slope = (dy[start : start + ROWS] * weight).to(roots.dtype)
        share = torch.linalg.vecdot(slope, part).unsqueeze(-1).mul_(root.square()).div_(-x.shape[-1])
        dx[start : start + ROWS] = torch.addcmul(slope, part, share).mul_(root)
    return dx


def _gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate).mul_(up)


def _gated_slopes(
    dact: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    silu = F.silu(gate)
    act = silu * up
    return torch.ops.aten.silu_backward(dact * up, gate), silu.mul_(dact), act


def _turned(x: torch.Tensor, cos: torch.Tensor, sin1: torch.Tensor, sin2: torch.Tensor) -> torch.Tensor:
    y = torch.mul(x, cos, out=torch.empty_like(x))  # of x's strides
    (x1, x2), (y1, y2) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    y1.addcmul_(x2, sin1, value=-1)
    y2.addcmul_(x1, sin2)
    return y


PLAIN = Elementwise(_norm, _norm_slope, _gated, _gated_slopes, _turned)

# To be compiled: one expression each


def _norm_whole(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    h = x.to(wide(x))
    root = torch.rsqrt(h.square().mean(-1, keepdim=True) + epsilon)
    return (h * root).to(x.dtype) * weight, root


def _norm_slope_whole(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, roots: torch.Tensor) -> torch.Tensor:
    h, slope = x.to(roots.dtype), (dy * weight).to(roots.dtype)
    share = (slope * h).sum(-1, keepdim=True) * roots.square() / x.shape[-1]
    return ((slope - h * share) * roots).to(x.dtype)


def _gated_slopes_whole(
    dact: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g, u, d = (tensor.to(wide(gate)) for tensor in (gate, up, dact))
    share = torch.sigmoid(g)
    silu = g * share
    dgate = d * u * (share + silu * (1 - share))
    return dgate.to(gate.dtype), (d * silu).to(gate.dtype), (silu * u).to(gate.dtype)


def _turned_whole(x: torch.Tensor, cos: torch.Tensor, sin1: torch.Tensor, sin2: torch.Tensor) -> torch.Tensor:
    (x1, x2), (cos1, cos2) = x.chunk(2, dim=-1), cos.chunk(2, dim=-1)
    return torch.cat((x1 * cos1 - x2 * sin1, x2 * cos2 + x1 * sin2), dim=-1)


def _gated_whole(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


WHOLE = Elementwise(_norm_whole, _norm_slope_whole, _gated_whole, _gated_slopes_whole, _turned_whole)


def compiled() -> Elementwise:
    """Each function compiled for any sizes, as it is first called."""
    return Elementwise(
        *(torch.compile(getattr(WHOLE, field.name), dynamic=True, fullgraph=True) for field in fields(WHOLE))
    )
