"""How far a student's next-token distributions are from a teacher's, in nats, and their loss in little memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 1 << 25  # logits worked on at once in float32: 128 MiB a copy


class Distilled(NamedTuple):
    """Sums over N tokens, each (): `value` carries the gradient."""

    value: torch.Tensor
    divergence: torch.Tensor
    cross_entropy: torch.Tensor


def generalised_jsd(student: torch.Tensor, teacher: torch.Tensor, beta: float, temperature: float) -> torch.Tensor:
    """D(P || Q) of each row, P the teacher's and Q the student's distribution at `temperature`.

    Between 0 and 1, `beta` KL(P || M) + (1 - `beta`) KL(Q || M) with M = `beta` P + (1 - `beta`) Q: equation 1 of GKD
    (arXiv 2306.13649). At its ends that is 0 everywhere, so there the limits in its gradient's direction stand, as in
    TRL: forward KL(P || Q) at 0, reverse KL(Q || P) at 1.

    Args:
        student, teacher: logits (N, V).

    Returns:
        (N,) float32.
    """
    log_q = F.log_softmax(student.float() / temperature, -1)
    log_p = F.log_softmax(teacher.float() / temperature, -1)
    if beta == 0:
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if beta == 1:
        return (log_q.exp() * (log_q - log_p)).sum(-1)
    weights = torch.tensor([beta, 1 - beta], device=log_p.device).log()
    log_m = torch.logaddexp(log_p + weights[0], log_q + weights[1])
    return beta * (log_p.exp() * (log_p - log_m)).sum(-1) + (1 - beta) * (log_q.exp() * (log_q - log_m)).sum(-1)


def distilled(
    student: torch.Tensor,
    teacher: torch.Tensor,
    targets: torch.Tensor,
    beta: float,
    temperature: float,
    alpha: float,
    chunk: int = CHUNK,
) -> Distilled:
    """`alpha` cross-entropy + (1 - `alpha`) divergence, summed over the tokens.

    float32 copies exist of `chunk` logits at a time: a chunk's are thrown away and made again for its gradient. With
    `alpha` 1 the divergence is measured only, and the value is computed as sft computes it.

    Args:
        student: logits (N, V); teacher: (N, W). Of a wider one, what lies beyond the other's width is left out of the
            divergence: the padding of a vocabulary, which no text has ids in. targets: (N,).
    """
    width = min(student.shape[1], teacher.shape[1])

    def part(student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.set_grad_enabled(alpha < 1 and torch.is_grad_enabled()):
            divergence = generalised_jsd(student[:, :width], teacher[:, :width], beta, temperature).sum()
        with torch.set_grad_enabled(alpha > 0 and torch.is_grad_enabled()):
            cross_entropy = F.cross_entropy(student.float(), targets, reduction="sum")
        value = alpha * cross_entropy + (1 - alpha) * divergence
        return value, divergence.detach(), cross_entropy.detach()

    rows = max(1, len(targets) if alpha == 1 else chunk // student.shape[1])
    parts = list(zip(student.split(rows), teacher.split(rows), targets.split(rows), strict=True))
    if len(parts) == 1:
        return Distilled(*part(*parts[0]))
    sums = [checkpoint(part, *each, use_reentrant=False, preserve_rng_state=False) for each in parts]
    return Distilled(*(torch.stack(values).sum() for values in zip(*sums, strict=True)))
