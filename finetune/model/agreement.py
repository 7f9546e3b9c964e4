"""Do two ways of computing the same give the same, forward and backward? Measured on a device in a dtype."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune.errors import first_line

LEAST_TOLERANCE = 1e-5  # sums over some thousand float32 numbers in another order differ by more than one rounding


@dataclass(frozen=True)
class Difference:
    """What came of a comparison.

    Attributes:
        value: the largest one, relative to the largest number of its row (the last dimension), or of the whole, in the plain
            result.
        allowed: see `allowed`.
        problem: why nothing could be compared; `value` is infinite then.
    """

    value: float
    allowed: float
    problem: str = ""

    @property
    def within(self) -> bool:
        """Whether the two are the same but for rounding."""
        return not self.problem and self.value <= self.allowed

    def line(self) -> str:
        """In words, of one that is not within."""
        return self.problem or f"differs by {self.value:.2g} (allowed: {self.allowed:.2g})"


def allowed(dtype: torch.dtype) -> float:
    """Four times the dtype's epsilon: roundings on the way that one has and the other has not. At least 1e-5."""
    return max(4 * torch.finfo(dtype).eps, LEAST_TOLERANCE)


def compare(
    plain: Callable[..., Any],
    other: Callable[..., Any],
    inputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor] = (),
    gradients: bool = True,
    inputs_with_gradient: int | None = None,
    by_row: bool = True,
) -> Difference:
    """The largest difference of outputs and, with `gradients`, of the gradients of inputs and weights.

    Args:
        plain, other: take `inputs`, give a tensor or a tuple of them.
        inputs_with_gradient: so many of the first ones; None: all.
        by_row: each row counts by its own size; else each tensor does, where whole rows are nothing but rounding.
    """
    limit = allowed(inputs[0].dtype)
    wanted = len(inputs) if inputs_with_gradient is None else inputs_with_gradient
    leaves = [x.detach().clone().requires_grad_(gradients and index < wanted) for index, x in enumerate(inputs)]
    results = []
    for compute in (plain, other):
        try:
            with torch.set_grad_enabled(gradients):
                outputs = compute(*leaves)
                outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
                outputs += _gradients(outputs, [*leaves[:wanted], *weights]) if gradients else []
        except Exception as error:  # a kernel raises what it likes; whatever it is, the plain way stays
            return Difference(math.inf, limit, f"raises {type(error).__name__}: {first_line(error)}")
        results.append([tensor.detach() for tensor in outputs])
    return _largest(results[0], results[1], limit, by_row)


def _gradients(outputs: Sequence[torch.Tensor], of: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(7)
    slopes = [torch.randn(y.shape, generator=draw).to(device=y.device, dtype=y.dtype) for y in outputs]
    return list(torch.autograd.grad(outputs, of, slopes))


def _largest(plain: Sequence[torch.Tensor], other: Sequence[torch.Tensor], limit: float, by_row: bool) -> Difference:
    forms = [[(tuple(tensor.shape), tensor.dtype) for tensor in tensors] for tensors in (plain, other)]
    if forms[0] != forms[1]:
        mine, its = next((a, b) for a, b in zip(*forms, strict=True) if a != b)
        return Difference(math.inf, limit, f"gives {its[1]} {its[0]} in place of {mine[1]} {mine[0]}")
    values = []
    for one, two in zip(plain, other, strict=True):
        size = one.float().abs().amax(-1)
        largest = (size if by_row else size.max()).clamp_min(torch.finfo(torch.float32).tiny)
        values.append((two.float() - one.float()).abs().amax(-1).div(largest).max())
    value = float(torch.stack(values).max())
    if not math.isfinite(value):
        return Difference(math.inf, limit, "gives numbers that are not finite")
    return Difference(value, limit)
