"""The items of several stages as one sequence, each with the number of its part; which of them make a step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import overload

from finetune.data.chat import Example
from finetune.data.items import Item
from finetune.schedule import batch_indices
from finetune.shares import epoch_items, mixed_indices


@dataclass(frozen=True)
class Mixed:
    """An item and the number of the part that it is of."""

    part: int
    item: Item

    @property
    def where(self) -> str:
        return self.item.where

    @property
    def length(self) -> int:
        return self.item.length

    @property
    def marks(self) -> tuple[float, ...]:
        return self.item.marks

    @property
    def examples(self) -> tuple[Example, ...]:
        return self.item.examples

    def blank(self) -> Mixed:
        """The same with nothing to train on."""
        return Mixed(self.part, self.item.blank())


class MixedItems(Sequence[Mixed]):
    """The items of all parts, one part after the other.

    Args:
        parts: the items of each; none is empty.
        weights: of each, above 0.
    """

    def __init__(self, parts: Sequence[Sequence[Item]], weights: Sequence[float]) -> None:
        self.parts = parts
        self.weights = weights
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Mixed: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mixed]: ...
    def __getitem__(self, index: int | slice) -> Mixed | list[Mixed]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]  # negative indices, IndexError
        part = bisect_right(self._ends, i)
        return Mixed(part, self.parts[part][i - self._ends[part]])  # counted from the part's end

    def of_step(self, seed: int, step: int, global_batch: int) -> list[Mixed]:
        """What makes step `step` (from 0), part by part; see `mixed_indices`."""
        sizes = [len(part) for part in self.parts]
        chosen = mixed_indices(seed, step, sizes, self.weights, global_batch)
        return [Mixed(number, self.parts[number][i]) for number, places in enumerate(chosen) for i in places]


def items_of_step(items: Sequence[Item], seed: int, step: int, global_batch: int) -> Sequence[Item]:
    """The global batch of step `step` (from 0), the same on every process."""
    if isinstance(items, MixedItems):
        return items.of_step(seed, step, global_batch)
    return [items[i] for i in batch_indices(seed, step, len(items), global_batch)]


def items_of_epoch(items: Sequence[Item]) -> int:
    """How many make an epoch: of a mixture, until its first part has been gone through once."""
    if isinstance(items, MixedItems):
        return epoch_items([len(part) for part in items.parts], items.weights)
    return len(items)
