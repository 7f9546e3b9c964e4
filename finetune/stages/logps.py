"""Log-probabilities of trained tokens, and of whole answers."""

from __future__ import annotations

from typing import Any

import torch

from finetune.stages.base import Batch
from finetune.stages.batch import model_inputs


def token_logps(model: Any, batch: Batch, **settings: Any) -> tuple[torch.Tensor, ...]:
    """Of a batch of `collate_rows`, at its N trained positions: log p(target) (N,) in nats, whether the target is the
    likeliest token (N,), and what `settings` ask for besides, as `TrainedPositions.forward` takes them."""
    return model(*model_inputs(batch), targets=batch["targets"], **settings)


def sequence_logps(logps: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """(B,): the sum of log p(target) over the trained positions of each row, in nats; 0 for a row without.

    Args:
        logps: (N,).
        rows: (N,) in 0..count-1, which row each position is of.
        count: B.
    """
    return torch.zeros(count, dtype=logps.dtype, device=logps.device).index_add(0, rows, logps)


def lengths(rows: torch.Tensor, count: int) -> torch.Tensor:
    """(B,) how many trained positions each row has."""
    return torch.zeros(count, dtype=rows.dtype, device=rows.device).index_add(0, rows, torch.ones_like(rows))
