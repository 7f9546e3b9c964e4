"""What the loop batches: an Example, or a pair of them. Both have `where`, `length`, `marks`, `examples` and `blank()`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

from finetune.data.chat import Example
from finetune.data.store import ExampleStore


class Item(Protocol):
    """One of a global batch's `train.global_batch_size`."""

    @property
    def where(self) -> str: ...
    @property
    def length(self) -> int:
        """Tokens of its longest part."""

    @property
    def marks(self) -> tuple[float, ...]: ...
    @property
    def examples(self) -> tuple[Example, ...]:
        """Its parts; the first is what a proof or a golden sample is about."""

    def blank(self) -> Any:
        """The same with nothing to train on."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the first better."""

    chosen: Example
    rejected: Example

    @property
    def where(self) -> str:
        return self.chosen.where

    @property
    def length(self) -> int:
        """Tokens of the longer one."""
        return max(self.chosen.length, self.rejected.length)

    @property
    def marks(self) -> tuple[float, ...]:
        return self.chosen.marks

    @property
    def examples(self) -> tuple[Example, ...]:
        return (self.chosen, self.rejected)

    def blank(self) -> Pair:
        """The same with nothing to train on."""
        return Pair(self.chosen.blank(), self.rejected.blank())


class Pairs(Sequence[Pair]):
    """A store whose examples alternate between chosen and rejected, two at a time."""

    def __init__(self, store: ExampleStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store) // 2

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = 2 * range(len(self))[index]
        return Pair(self.store[i], self.store[i + 1])

    def __iter__(self) -> Iterator[Pair]:
        return (self[i] for i in range(len(self)))


def flat(items: Sequence[Item]) -> Sequence[Example]:
    """All examples of the items, in order."""
    if isinstance(items, ExampleStore):
        return items
    return items.store if isinstance(items, Pairs) else [part for item in items for part in item.examples]
