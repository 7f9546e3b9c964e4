"""Log-probabilities of whole answers, from logits at the trained positions."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def sequence_logps(logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """(B,) the sum of log p(target) over the trained positions of each row, in nats; 0 for a row without.

    In float32, or float64 as the logits.

    Args:
        logits: (N, V).
        targets: (N,).
        rows: (N,) in 0..count-1, which row each position is of.
        count: B.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logps = -F.cross_entropy(wide, targets, reduction="none")  # (N,)
    return logps.new_zeros(count).index_add(0, rows, logps)


def lengths(rows: torch.Tensor, count: int) -> torch.Tensor:
    """(B,) how many trained positions each row has."""
    return torch.zeros(count, dtype=rows.dtype, device=rows.device).index_add(0, rows, torch.ones_like(rows))
