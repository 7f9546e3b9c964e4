"""A stage is four functions; the loop knows nothing else of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Batch = dict[str, torch.Tensor]


class Stage(Protocol):
    """What training means: how samples become batches, what is counted, and the loss.

    `loss` is a SUM over `count` items (tokens for sft). The loop divides once per optimizer step by the count over all
    micro-batches and processes, so that splitting a batch any way changes nothing.
    """

    def encode(self, samples: Sequence[Any]) -> list[Any]:
        """Rendered samples to encoded examples, problems with file and line."""

    def collate(self, examples: Sequence[Any]) -> Batch:
        """Encoded examples to tensors."""

    def count(self, batch: Batch) -> int:
        """Items the loss of this batch sums over."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        """Sum of the loss over the counted items, and further sums to log."""


@dataclass(frozen=True)
class LossSum:
    """`value` carries the gradient; `sums` are plain numbers summed over the same items, logged as means."""

    value: torch.Tensor
    sums: dict[str, torch.Tensor]
