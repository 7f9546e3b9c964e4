"""How many rows each source gives: `repeat` multiplies them, `weight` makes them shares of what is drawn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeVar

from finetune.errors import DataError
from finetune.recipe import SourceSection

Item = TypeVar("Item")


def mix(
    sources: Sequence[SourceSection], items: Sequence[Sequence[Item]], seed: int, notes: list[str] | None = None
) -> list[Item]:
    """The items of all sources, source by source, as often as the recipe says.

    Args:
        sources: the sections of the recipe.
        items: rows or samples of each source, in the same order.
        seed: decides which items of a source are drawn when not all are.
        notes: gets one line a source, with its rows and its share, where anything but "all once" happens.

    With weights the total is the largest for which no source is used more than `repeat` times; every item of a source
    is drawn equally often, up to one. The same seed and the same items give the same draw.

    Raises:
        DataError: only some of the sources have a `weight`; a weighted source gives no row.
    """
    available = [len(part) * source.repeat for source, part in zip(sources, items, strict=True)]
    weights = [source.weight for source in sources if source.weight is not None]
    if weights and len(weights) != len(sources):
        without = [name_of(source) for source in sources if source.weight is None]
        raise DataError(f"data: weight: give it for all sources or for none; without it: {', '.join(without)}")
    counts = _shares(weights, available) if weights else available
    if weights and 0 in counts:
        empty = [name_of(source) for source, count in zip(sources, counts, strict=True) if count == 0]
        raise DataError(f"data: weight: no row would be drawn from {', '.join(empty)}")
    mixed: list[Item] = []
    for index, (source, part, count) in enumerate(zip(sources, items, counts, strict=True)):
        mixed += _draw(part, count, random.Random(f"{seed}:{index}"))
        if notes is not None and (len(sources) > 1 or count != len(part)):
            share = 100 * count / max(sum(counts), 1)
            notes.append(f"{name_of(source)}: {len(part):,} rows, used {count:,} times ({share:.1f} % of the mixture)")
    return mixed


def name_of(source: SourceSection) -> str:
    """The source as the recipe names it."""
    return str(source.path or source.hub)


def _shares(weights: Sequence[float], available: Sequence[int]) -> list[int]:
    """Counts in the ratio of the weights, none above what is available; rounding by largest remainder."""
    parts = [Fraction(weight) / sum(map(Fraction, weights)) for weight in weights]
    total = int(min(count / part for count, part in zip(available, parts, strict=True)))
    exact = [part * total for part in parts]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _draw(part: Sequence[Item], count: int, generator: random.Random) -> list[Item]:
    """Every item count // n times, then a random remainder, each in the order of the source."""
    if count == 0:
        return []
    rounds, rest = divmod(count, len(part))
    return [*part] * rounds + [part[index] for index in sorted(generator.sample(range(len(part)), rest))]
