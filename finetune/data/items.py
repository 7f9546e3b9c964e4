"""What the loop batches: an Example, or two that belong together; with where, length, marks, examples and blank()."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, overload

from finetune.data.chat import IGNORED, Example
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


class OfExample:
    """An item that stands for one example, and knows more about it."""

    example: Example

    @property
    def where(self) -> str:
        return self.example.where

    @property
    def length(self) -> int:
        return self.example.length

    @property
    def marks(self) -> tuple[float, ...]:
        return self.example.marks

    @property
    def examples(self) -> tuple[Example, ...]:
        return (self.example,)


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

    def marked(self, chosen: float, rejected: float) -> Pair:
        """The same with one mark more on each part."""
        return Pair(_marked(self.chosen, chosen), _marked(self.rejected, rejected))


@dataclass(frozen=True)
class Labelled:
    """An answer with a label, and beside it its prompt with another row's answer: what kto's baseline is measured on."""

    answer: Example
    mismatched: Example

    @property
    def where(self) -> str:
        return self.answer.where

    @property
    def length(self) -> int:
        """Tokens of the longer one."""
        return max(self.answer.length, self.mismatched.length)

    @property
    def marks(self) -> tuple[float, ...]:
        return self.answer.marks

    @property
    def examples(self) -> tuple[Example, ...]:
        """The answer alone: the other was made here."""
        return (self.answer,)

    def blank(self) -> Labelled:
        """The same with nothing to train on."""
        return Labelled(self.answer.blank(), self.mismatched.blank())

    def marked(self, answer: float, mismatched: float) -> Labelled:
        """The same with one mark more on each part."""
        return Labelled(_marked(self.answer, answer), _marked(self.mismatched, mismatched))


def _marked(example: Example, mark: float) -> Example:
    return replace(example, marks=(*example.marks, mark))


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


class LabelledItems(Sequence[Labelled]):
    """Labelled answers, each with a mismatched one, cut off at `max_length` tokens.

    The mismatched answer is that of the nearest row before it (before the first comes the last) with another prompt, so
    that it depends on the rows and not on how they are batched, and over all rows every answer is met about once. Where
    all rows have one prompt there is nothing to train on in it.
    """

    def __init__(self, answers: Sequence[Example], max_length: int) -> None:
        self.answers = answers
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.answers)

    @overload
    def __getitem__(self, index: int) -> Labelled: ...
    @overload
    def __getitem__(self, index: slice) -> list[Labelled]: ...
    def __getitem__(self, index: int | slice) -> Labelled | list[Labelled]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        answer = self.answers[i]
        prompt = _prompt(answer)
        for step in range(1, len(self)):
            other = self.answers[(i - step) % len(self)]
            start = len(_prompt(other))
            if other.ids[:start] != prompt:
                ids, labels = prompt + other.ids[start:], (IGNORED,) * len(prompt) + other.labels[start:]
                return Labelled(answer, Example(ids[: self.max_length], labels[: self.max_length], answer.where))
        return Labelled(answer, replace(answer.blank(), marks=()))

    def __iter__(self) -> Iterator[Labelled]:
        return (self[i] for i in range(len(self)))


def _prompt(example: Example) -> tuple[int, ...]:
    """The ids before the first trained one."""
    return example.ids[: next(i for i, label in enumerate(example.labels) if label != IGNORED)]


def flat(items: Sequence[Item]) -> Sequence[Example]:
    """All examples of the items, in order."""
    if isinstance(items, ExampleStore):
        return items
    if isinstance(items, LabelledItems):
        return items.answers
    return items.store if isinstance(items, Pairs) else [part for item in items for part in item.examples]
