"""Which items of which part of a mixture make which step: functions of weights, sizes, seed and step, without state."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING, overload

from finetune.schedule import batch_indices, order_of_epoch

if TYPE_CHECKING:
    from finetune.data.chat import Example
    from finetune.data.items import Item


def shares(weights: Sequence[float]) -> list[Fraction]:
    """Each weight's part of their sum, exactly."""
    whole = sum(map(Fraction, weights))
    return [Fraction(weight) / whole for weight in weights]


def allotment(weights: Sequence[float], items: int) -> list[int]:
    """How many of the first `items` items fall to each part: item k goes to the part that is owed it most.

    Sainte-Lague's method: part p's i-th item (from 0) is due at (i + 1/2) / share, and items go out in the order in which
    they are due; of equals the part named first. So a part is never more than about one item off share x items, however
    many those are, and a longer run only adds to a shorter one.
    """
    part = shares(weights)
    # Up to time t the parts are due at most t + len(part) / 2 items in all, so all of these are among the first `items`.
    early = max(0, items - len(part))
    given = [math.floor(share * early + Fraction(1, 2)) for share in part] if early else [0] * len(part)
    due = [
        ((count + Fraction(1, 2)) / share, index) for index, (count, share) in enumerate(zip(given, part, strict=True))
    ]
    heapq.heapify(due)
    for _ in range(items - sum(given)):
        _, index = due[0]
        given[index] += 1
        heapq.heapreplace(due, ((given[index] + Fraction(1, 2)) / part[index], index))
    return given


def mixed_indices(
    seed: int, step: int, sizes: Sequence[int], weights: Sequence[float], global_batch: int
) -> list[list[int]]:
    """Of each part, which of its items make step `step` (from 0).

    Every part goes through permutations of its own, epoch after epoch, and its next epoch may begin within a batch. A
    part alone is a run of its stage: there the last batch of an epoch is short (see `schedule.batch_indices`).
    """
    if len(sizes) == 1:
        return [batch_indices(seed, step, sizes[0], global_batch)]
    before, after = (allotment(weights, global_batch * n) for n in (step, step + 1))
    found = []
    for number, (first, end, size) in enumerate(zip(before, after, sizes, strict=True)):
        places = [divmod(place, size) for place in range(first, end)]
        found.append([int(order_of_epoch(seed + number, epoch, size)[position]) for epoch, position in places])
    return found


def epoch_items(sizes: Sequence[int], weights: Sequence[float]) -> int:
    """Items of all parts together while the first part goes through its rows once: an epoch of the mixture."""
    return math.ceil(sizes[0] / shares(weights)[0])


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
