"""How many rows each source gives: `repeat` multiplies them, `weight` makes them shares of what is drawn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from finetune.errors import DataError
from finetune.recipe_data import SourceSection


def mix(
    sources: Sequence[SourceSection], sizes: Sequence[int], seed: int, notes: list[str] | None = None
) -> list[np.ndarray]:
    """Which items of each source are used, by their places in it, as often as the recipe says.

    Args:
        sources: the sections of the recipe.
        sizes: items of each source, in the same order.
        seed: decides which items of a source are drawn when not all are.
        notes: gets one line a source, with its rows and its share, where anything but "all once" happens.

    With weights the total is the largest for which no source is used more than `repeat` times; every item of a source
    is drawn equally often, up to one. The same seed and the same items give the same draw.

    Raises:
        DataError: only some of the sources have a `weight`; a weighted source gives no row.
    """
    available = [size * source.repeat for source, size in zip(sources, sizes, strict=True)]
    weights = [source.weight for source in sources if source.weight is not None]
    if weights and len(weights) != len(sources):
        without = [name_of(source) for source in sources if source.weight is None]
        raise DataError(f"data: weight: give it for all sources or for none; without it: {', '.join(without)}")
    counts = _shares(weights, available) if weights else available
    if weights and 0 in counts:
        empty = [name_of(source) for source, count in zip(sources, counts, strict=True) if count == 0]
        raise DataError(f"data: weight: no row would be drawn from {', '.join(empty)}")
    drawn: list[np.ndarray] = []
    for index, (source, size, count) in enumerate(zip(sources, sizes, counts, strict=True)):
        drawn.append(_draw(size, count, random.Random(f"{seed}:{index}")))
        if notes is not None and (len(sources) > 1 or count != size):
            share = 100 * count / max(sum(counts), 1)
            notes.append(f"{name_of(source)}: {size:,} rows, used {count:,} times ({share:.1f} % of the mixture)")
    return drawn


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


def _draw(size: int, count: int, generator: random.Random) -> np.ndarray:
    """Every item count // size times, then a random remainder, each in the order of the source."""
    if count == 0:
        return np.zeros(0, np.int64)
    rounds, rest = divmod(count, size)
    drawn = np.sort(np.fromiter(generator.sample(range(size), rest), np.int64, rest))
    return np.concatenate([np.tile(np.arange(size), rounds), drawn])
