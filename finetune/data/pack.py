"""Several conversations in one row: first-fit-decreasing to a token budget, and plain joining for padding-free batches.

A row's documents must not see each other. `Sft.collate` restarts `position_ids` at each of them, and
`finetune.model.isolation` proves on the real model that this is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from finetune.data.chat import Example
from finetune.errors import DataError

_NAMED = 8  # rows that `Pack.where` spells out


@dataclass(frozen=True, kw_only=True)
class Pack(Example):
    """One row of whole documents: their `ids` and `labels` end to end.

    To the loop it is one Example: one sequence of `train.global_batch_size`, and `replace(pack, labels=...)` keeps the
    documents' bounds. `where` names the first rows of `sources`.

    Attributes:
        lengths: tokens of each document; they add up to len(ids).
        sources: `where` of each document.
    """

    lengths: tuple[int, ...]
    sources: tuple[str, ...]

    @property
    def documents(self) -> tuple[Example, ...]:
        """The packed examples again, in their order in the row."""
        ends = list(accumulate(self.lengths))
        return tuple(
            Example(self.ids[end - length : end], self.labels[end - length : end], where)
            for end, length, where in zip(ends, self.lengths, self.sources, strict=True)
        )


def pack(examples: Sequence[Example], budget: int, window: int | None = None) -> list[Pack]:
    """The examples in as few rows of at most `budget` tokens as first-fit-decreasing finds. No randomness.

    Documents are never cut. Within a pack they stand in the order of `examples`; packs are in the order of their first
    document.

    Args:
        budget: most tokens of a pack.
        window: examples that are packed together: each run of `window` of them gives packs of its own, so rows that
            were near each other stay near (a weighted mixture, a stream). None: all of them.

    Raises:
        DataError: an example without tokens, or longer than the budget.
    """
    problems = [
        f"{example.where}: {len(example.ids)} tokens can't be packed; a packed row holds 1 to {budget} of them"
        for example in examples
        if not 1 <= len(example.ids) <= budget
    ]
    if problems:
        raise DataError(problems)
    step = window or max(1, len(examples))
    packs = []
    for start in range(0, len(examples), step):
        near = examples[start : start + step]
        rows = first_fit_decreasing([len(example.ids) for example in near], budget)
        packs += [join([near[index] for index in row]) for row in sorted(sorted(row) for row in rows)]
    return packs


def join(examples: Sequence[Example]) -> Pack:
    """The examples in one row in the order given, whatever its length; a pack among them brings its documents."""
    lengths: list[int] = []
    sources: list[str] = []
    for example in examples:
        lengths += example.lengths if isinstance(example, Pack) else [len(example.ids)]
        sources += example.sources if isinstance(example, Pack) else [example.where]
    rest = len(sources) - _NAMED
    return Pack(
        ids=tuple(token for example in examples for token in example.ids),
        labels=tuple(label for example in examples for label in example.labels),
        where=", ".join(sources[:_NAMED]) + (f" and {rest} more" if rest > 0 else ""),
        lengths=tuple(lengths),
        sources=tuple(sources),
    )


def packing_line(packs: Sequence[Pack], budget: int) -> str:
    """One line for the console: how full the rows are, and what the recipe's batch size counts from here on."""
    documents = sum(len(row.lengths) for row in packs)
    tokens = sum(len(row.ids) for row in packs)
    return (
        f"packed: {documents} documents in {len(packs)} rows of at most {budget} tokens, "
        f"{tokens / (budget * len(packs)):.1%} full; train.global_batch_size counts these rows"
    )


def first_fit_decreasing(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of `lengths` by bin: longest first, each into the first bin with room (D. S. Johnson, 1973).

    Items of one length are placed at once: the first bin takes as many as fit, then the next one; so the work is that
    of (different lengths) x (bins) in numpy, not of items x bins.
    """
    import numpy as np

    bins: list[list[int]] = []
    room = np.empty(0, dtype=np.int64)  # (bins,) tokens left
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)  # stable: equal ones in input order
    for length, same in groupby(order, key=lengths.__getitem__):
        items = list(same)
        places = room // length  # (bins,) how many of this length fit
        first = 0
        for index in np.flatnonzero(places):
            if first == len(items):
                break
            taken = items[first : first + int(places[index])]
            bins[index] += taken
            room[index] -= length * len(taken)
            first += len(taken)
        fresh = [items[i : i + budget // length] for i in range(first, len(items), budget // length)]
        bins += fresh
        room = np.append(room, [budget - length * len(row) for row in fresh]).astype(np.int64)
    return bins
