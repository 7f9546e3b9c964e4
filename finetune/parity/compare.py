"""Differences between what two devices computed, and what they are held against. Pure functions of tensors and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

# Two right float32 kernels add in another order. Over sums of some thousand products and some dozen layers the results
# part by 1e-7 to 1e-6 of their size; a wrong kernel, or one that rounds its inputs to fewer bits (TF32, HF32: eps 2^-10),
# by 1e-4 and more. The limit lies between: 256 times the eps of float32 (3e-5), for the RMS.
EPS32 = torch.finfo(torch.float32).eps
FLOAT32 = 256 * EPS32
# Single elements lie further off than the RMS, gradients are sums with cancellation, and training carries differences on.
ELEMENT, GRADIENT, TRAINED = 32, 8, 16
# Two devices that both round to a dtype differ by about sqrt(2) of what one of them is off the float32 result; a single
# element that is rounded the other way, by a whole step where that one is off by half a step at most. Where the one is right
# by chance, as of a channel that outweighs its row, the other may still be a step off.
OWN, OWN_ELEMENT, STEP = 3.0, 6.0, torch.finfo(torch.bfloat16).eps


@dataclass(frozen=True)
class Gap:
    """How far a tensor is from the one it should be.

    Attributes:
        max_abs, mean_abs: of the elements' differences.
        relative: RMS over rows (positions) of a row's RMS difference over its size, which is the RMS of the reference's row,
            and that of the median row at least. Each row counts the same: in the first position's some models keep values
            ten thousand times larger than elsewhere.
        element: largest difference of an element over the sum of its own size and its row's.
    """

    max_abs: float
    mean_abs: float
    relative: float
    element: float


@dataclass(frozen=True)
class Compared:
    """One tensor by name.

    Attributes:
        gap: between device and reference.
        own: between the reference and the reference in float32; None where the run is in float32.
        over: the gap as a multiple of what is allowed: above 1 it diverges.
        equal: it is no larger than what float32 itself leaves open.
    """

    name: str
    gap: Gap
    own: Gap | None
    over: float
    equal: bool


@dataclass(frozen=True)
class Logits:
    """Differences of logits at some positions.

    Attributes:
        relative: see Gap; of the largest difference, `of_spread` says how many standard deviations of the logits it is.
        greedy: share of positions whose most likely token is another one; None of rewards. kl: mean KL(reference ||
            device) in nats.
    """

    positions: int
    max_abs: float
    mean_abs: float
    relative: float
    of_spread: float
    greedy: float | None
    kl: float | None


def gap(found: torch.Tensor, wanted: torch.Tensor, scale: float = 0.0) -> Gap:
    """Of two tensors of the same shape; what is not finite in one of them alone is infinitely far away.

    Args:
        scale: least size of a row.
    """
    if found.shape != wanted.shape:
        return Gap(math.inf, math.inf, math.inf, math.inf)
    width = wanted.shape[-1] if wanted.dim() > 1 else wanted.numel()
    found, wanted = (tensor.double().reshape(-1, max(1, width)) for tensor in (found, wanted))
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    apart = torch.where(same, 0.0, (found - wanted).abs()).nan_to_num(nan=math.inf)
    if not apart.any():
        return Gap(0.0, 0.0, 0.0, 0.0)
    values = torch.where(wanted.isfinite(), wanted.abs(), 0.0)
    sizes = values.square().mean(1, keepdim=True).sqrt()  # (rows, 1)
    sizes = sizes.clamp(min=max(scale, float(sizes.median())))
    of_row = apart.square().mean(1, keepdim=True).sqrt() / sizes
    relative = float(torch.where(apart.any(1, keepdim=True), of_row, 0.0).square().mean().sqrt())
    element = float(torch.where(apart > 0, apart / (sizes + values), 0.0).max())
    return Gap(float(apart.max()), float(apart.mean()), relative, element)


def rms(values: torch.Tensor) -> float:
    """Root of the mean square; 0 of nothing."""
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0


def compared(name: str, found: Gap, own: Gap | None, floor: float, step: float = STEP) -> Compared:
    """A gap beside what it may be: `floor` (relative); where there is an error of the dtype's own, OWN times that, or a step.

    Args:
        step: of the dtype, relative; 0 of means over many numbers.
    """
    limits = (floor, ELEMENT * floor)
    least = max(found.relative / limits[0], found.element / limits[1])
    if own is not None:
        limits = (
            max(limits[0], OWN * own.relative, step),
            max(limits[1], OWN_ELEMENT * own.element, 2 * step),
        )
    over = max(found.relative / limits[0], found.element / limits[1])
    return Compared(name, found, own, over if not math.isnan(over) else math.inf, least <= 1)


Read = Callable[[str], torch.Tensor | None]  # a tensor by name; None: it is not there


def compare_tensors(
    names: Iterable[str], found: Read, wanted: Read, exact: Read | None, floor: float, scale: float = 0.0
) -> list[Compared]:
    """Tensor by tensor, in the order of `names`; those that the device does not have are left out.

    Args:
        exact: the reference's in float32.
        floor: what float32 leaves open, relative.
        scale: see `gap`.
    """
    told = []
    for name in names:
        its, reference = found(name), wanted(name)
        if its is None or reference is None:
            continue
        true = exact(name) if exact else None
        own = None if true is None else gap(reference, true, scale)
        told.append(compared(name, gap(its, reference, scale), own, floor))
    return told


def compare_logits(found: torch.Tensor, wanted: torch.Tensor, language: bool = True) -> Logits:
    """Of logits (N, V) at the same positions.

    Args:
        language: false for rewards, which are no distribution.
    """
    its = gap(found, wanted)
    spread = float(wanted.double().std()) if wanted.numel() > 1 else 0.0
    of_spread = its.max_abs / spread if spread else (math.inf if its.max_abs else 0.0)
    greedy = kl = None
    if language and len(wanted):
        greedy = float((found.argmax(-1) != wanted.argmax(-1)).double().mean())
        before, after = wanted.double().log_softmax(-1), found.double().log_softmax(-1)
        kl = float((before.exp() * (before - after)).sum(-1).mean().clamp(min=0))
        kl = kl if math.isfinite(kl) else math.inf
    return Logits(len(wanted), its.max_abs, its.mean_abs, its.relative, of_spread, greedy, kl)


def compare_losses(found: Sequence[float], wanted: Sequence[float], exact: Sequence[float] | None) -> list[Compared]:
    """Step by step (from 1), as far as both go. The dtype's own error is the largest of all steps: at one it may be 0."""
    own = None
    if exact is not None:
        steps = [_number_gap(one, true) for one, true in zip(wanted, exact, strict=False)]
        own = max(steps, key=lambda step: step.relative, default=None)
    return [
        compared(f"the loss of step {number}", _number_gap(its, reference), own, TRAINED * FLOAT32, step=0)
        for number, (its, reference) in enumerate(zip(found, wanted, strict=False), 1)
    ]


def _number_gap(found: float, wanted: float) -> Gap:
    apart = 0.0 if found == wanted else abs(found - wanted)
    apart = math.inf if math.isnan(apart) else apart
    relative = apart / abs(wanted) if wanted and apart else apart
    return Gap(apart, apart, relative, relative)


def first_over(told: Sequence[Compared]) -> Compared | None:
    """The first that diverges, in the order that it was computed in."""
    return next((one for one in told if one.over > 1), None)
