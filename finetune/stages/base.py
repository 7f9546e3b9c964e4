"""A stage is a few functions; the loop knows nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:
    from finetune.data.template import Metric
    from finetune.device import Placement

Batch = dict[str, torch.Tensor]


class Stage(Protocol):
    """What training means: how samples become batches, what is counted, and the loss.

    `loss` is a SUM over `count` items (tokens for sft). The loop divides once per optimizer step by the count over all
    micro-batches and processes, so that splitting a batch any way changes nothing.

    Attributes:
        unit: what is counted: "tokens", "pairs", "answers".
    """

    unit: str

    def encode(self, samples: Sequence[Any]) -> list[Any]:
        """Rendered samples to items (see data/items.py), problems with file and line."""

    def collate(self, items: Sequence[Any]) -> Batch:
        """Items to tensors; `tokens`, (), is how many real tokens they hold."""

    def count(self, batch: Batch) -> int:
        """How many the loss of this batch sums over."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        """Sum of the loss over what is counted, and further sums to log."""

    def scores(self, means: Mapping[str, float]) -> dict[str, float]:
        """What the means over held-out items (of `loss` and of the further sums) say of the model, by name, the main
        one first; higher is better. Empty where answers are scored instead."""


@runtime_checkable
class Sharing(Protocol):
    """What a stage has besides when its loss needs numbers of the whole global batch (kto's distance to the reference)."""

    def shared(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """(K,) sums over this batch, computed before any loss of the step and without gradient. Their total over all
        micro-batches and processes is in every batch as `shared` when `loss` sees it."""


@runtime_checkable
class Prepares(Protocol):
    """A stage that needs more than its settings, once, before training."""

    def prepare(self, model: Any, metrics: Mapping[str, Metric], placement: Placement) -> dict[str, Any]:
        """Gets it.

        Args:
            model: the base that is going to be trained.
            metrics: how answers are scored, by the `task` of their samples.

        Returns:
            What the manifest says of it; it must be the same in a run that resumes.

        Raises:
            RecipeError: it is not to be had.
        """


@runtime_checkable
class Explores(Protocol):
    """A stage whose model makes a step's items itself, of those that were drawn.

    Attributes:
        num_iterations: how many times the optimizer steps on them.
    """

    num_iterations: int

    def explore(self, model: Any, chosen: Sequence[Any], seed: int, placement: Placement) -> list[Any]:
        """The items to train on, the same list on every process.

        A function of the model's weights and the arguments alone, so that a resumed run makes the same ones.

        Args:
            model: as prepared for training; left in training mode.
            chosen: the items drawn for the step, the same on every process.
            seed: of this step, the same on every process.
        """

    def look(self, model: Any, held_out: Sequence[Any], placement: Placement) -> dict[str, float]:
        """What `train.eval_steps` looks at, on every process the same: `eval_loss`, lower is better, and more to log.

        Args:
            model: as of `explore`.
        """


@dataclass(frozen=True)
class LossSum:
    """`value` carries the gradient; `sums` are plain numbers summed over the same items, logged as means.

    A sum NAME beside one named `NAME:count` is divided by that instead of the batch's count. Every batch of a stage has
    the same names in the same order.
    """

    value: torch.Tensor
    sums: dict[str, torch.Tensor]


def counted_for(name: str, sums: Mapping[str, Any]) -> Any:
    """What a sum is divided by: `NAME:count` where there is one, else `count`."""
    return sums.get(f"{name}:count", sums["count"])


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Sums as means: over `NAME:count` where there is one (left out where that is 0), else over `count`."""
    return {
        name: value / max(1.0, counted_for(name, sums))
        for name, value in sums.items()
        if name != "count" and not name.endswith(":count") and sums.get(f"{name}:count") != 0
    }
