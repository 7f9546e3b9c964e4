"""Bootstrap confidence intervals of scores: how far they might lie elsewhere with other held-out rows of the same kind.

The percentile bootstrap (Efron 1979, doi:10.1214/aos/1176344552): rows are drawn again with replacement, the score is made
of those drawn, and the interval holds the middle 95 % of 1,000 such scores. Rows of one group are drawn together (cluster
bootstrap). Base and tuned see the same draws, so their difference is paired.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluate.corpus import corpus_scores, family_of, of_family

if TYPE_CHECKING:
    from finetune.evaluate.measure import Measured

Scores = dict[str, float]
Interval = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 0
AT_ONCE = 2_000_000  # numbers of a block of draws: 16 MB


def with_ends(value: float | None, ends: Sequence[float] | None = None, signed: bool = False) -> str:
    """A score and its interval as tables have them; a dash where there is none."""
    if value is None:
        return "-"
    sign = "+" if signed else ""
    return f"{value:{sign}.3f}" + (f" [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]" if ends else "")


@dataclass(frozen=True)
class Intervals:
    """The 95 % intervals of scores, lower and upper end, by name.

    Attributes:
        rows, groups: held out and drawn from, by the name of a mixture's part or of a suite (empty for a run's own rows).
        difference: of tuned - base.
        previous, difference_previous: of the release before, and of tuned - previous; empty without one.
    """

    rows: dict[str, int]
    groups: dict[str, int]
    base: dict[str, Interval]
    tuned: dict[str, Interval]
    difference: dict[str, Interval]
    previous: dict[str, Interval] = field(default_factory=dict)
    difference_previous: dict[str, Interval] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """What the manifest says."""
        ends = {"base": self.base, "tuned": self.tuned, "difference": self.difference}
        if self.previous:
            ends |= {"previous": self.previous, "difference_previous": self.difference_previous}
        return {
            "method": "percentile bootstrap", "confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED,
            "rows": self.rows, "groups": self.groups,
            **{who: {name: list(both) for name, both in its.items()} for who, its in ends.items()},
        }  # fmt: skip

    @classmethod
    def of_record(cls, told: Mapping[str, Any]) -> Intervals:
        """Those that a `record` tells of."""
        names = ("base", "tuned", "difference", "previous", "difference_previous")
        ends = {who: {name: (low, high) for name, (low, high) in (told.get(who) or {}).items()} for who in names}
        return cls(told["rows"], told["groups"], **ends)


@dataclass(frozen=True)
class Rows:
    """The rows of one part's evaluation, of all models in the same order.

    Attributes:
        groups: what is drawn together, by its number from 0, (rows,).
        tasks: of each row; empty where there is one task only.
        previous: of the release before; None without one.
    """

    base: Sequence[Scores]
    tuned: Sequence[Scores]
    groups: np.ndarray
    tasks: Sequence[str]
    previous: Sequence[Scores] | None = None


@dataclass(frozen=True)
class Losses:
    """The held-out items of one part through its stage's loss, of all models in the same order.

    Attributes:
        groups: as in Rows, (items,).
    """

    base: Measured
    tuned: Measured
    groups: np.ndarray
    previous: Measured | None = None


def numbered(keys: Sequence[str]) -> np.ndarray:
    """(keys,) equal keys under one number, numbers from 0 in the order in which keys come up."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def intervals(
    parts: Mapping[str, Rows], names: Collection[str], losses: Mapping[str, Losses] = MappingProxyType({})
) -> Intervals:
    """Of every score of every part; none where all its rows are of one group, which says nothing of other groups.

    Args:
        parts, losses: by the part's name, which stands before the names of its scores; empty for the only one.
        names: of the scores that are reported; others that rows come to have no interval.
    """
    found = Intervals({}, {}, {}, {}, {})
    for part, its in losses.items():
        found.rows[part], found.groups[part] = len(its.groups), int(its.groups.max()) + 1
        if found.groups[part] > 1:
            _of_losses(found, f"{part}/" if part else "", its)
    for part, rows in parts.items():
        groups = int(rows.groups.max()) + 1
        found.rows[part], found.groups[part] = len(rows.groups), groups
        if groups < 2:
            continue
        for task in ("", *dict.fromkeys(filter(None, rows.tasks))):
            chosen = np.array([not task or own == task for own in rows.tasks])
            before = "".join(f"{name}/" for name in (part, task) if name)
            _of_rows(found, before, rows, chosen)
    kept = {
        who: {name: ends[name] for name in names if name in (ends := getattr(found, who))}
        for who in ("base", "tuned", "difference", "previous", "difference_previous")
    }
    return replace(found, **kept)


def _of_rows(found: Intervals, before: str, rows: Rows, chosen: np.ndarray) -> None:
    """The intervals of one task's rows, or of all, into `found`."""
    models = {"base": rows.base, "tuned": rows.tuned, "previous": rows.previous}
    draws = {who: Drawn(its, rows.groups, chosen) for who, its in models.items() if its is not None}
    drawn: dict[str, list[dict[str, np.ndarray]]] = {who: [] for who in draws}
    width = max(len(one.names) for one in draws.values()) + int(rows.groups.max()) + 1
    for weights in _weights(int(rows.groups.max()) + 1, max(1, AT_ONCE // width)):
        for who, one in draws.items():
            drawn[who].append(one.scores(weights))
    whole = {
        who: {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        for who, blocks in drawn.items()
    }
    _enter(found, before, whole)


def _enter(found: Intervals, before: str, drawn: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """The intervals of scores drawn by model and name, and of what the tuned model's differ by, into `found`."""
    for who, scores in drawn.items():
        getattr(found, who).update({f"{before}{name}": _middle(values) for name, values in scores.items()})
    tuned = drawn["tuned"]
    for other, into in (("base", found.difference), ("previous", found.difference_previous)):
        theirs = drawn.get(other, {})
        into.update({f"{before}{name}": _middle(tuned[name] - theirs[name]) for name in tuned if name in theirs})


def _of_losses(found: Intervals, before: str, losses: Losses) -> None:
    """The intervals of one part's scores of the held-out loss into `found`; draws in which nothing is counted are left out."""
    from finetune.stages.base import counted_for

    groups = int(losses.groups.max()) + 1
    drawn: dict[str, dict[str, np.ndarray]] = {}
    weights = np.concatenate(list(_weights(groups, max(1, AT_ONCE // groups))))
    for who, one in (("base", losses.base), ("tuned", losses.tuned), ("previous", losses.previous)):
        if one is None:
            continue
        of_groups = np.zeros((groups, len(one.names)))
        np.add.at(of_groups, losses.groups, one.sums)
        sums = dict(zip(one.names, (weights @ of_groups).T, strict=True))
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {name: its / counted_for(name, sums) for name, its in sums.items()}
        drawn[who] = one.of_means(means)
    _enter(found, before, drawn)


class Drawn:
    """What rows come to, whichever of their groups are drawn how often."""

    def __init__(self, rows: Sequence[Scores], groups: np.ndarray, chosen: np.ndarray) -> None:
        """`chosen`: (rows,), which of the rows count."""
        kept = [row for row, its in zip(rows, chosen, strict=True) if its]
        self.names = [*dict.fromkeys(name for row in kept for name in row)]
        place = {name: index for index, name in enumerate(self.names)}
        self.sums, self.there = (np.zeros((int(groups.max()) + 1, len(self.names))) for _ in range(2))
        for row, group in zip(kept, groups[chosen].tolist(), strict=True):
            for name, value in row.items():
                self.sums[group, place[name]] += value
                self.there[group, place[name]] += 1
        self._families = {
            family: [name.partition("_f1/")[2] for name in its if "_f1/" in name]
            for family, its in corpus_scores(kept).items()
        }

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(draws,) each; nan where no row that was drawn has the score.

        Args:
            weights: (draws, groups), how often each group was drawn.
        """
        sums, there = weights @ self.sums, weights @ self.there
        with np.errstate(invalid="ignore"):
            means = sums / there
        found = {name: means[:, i] for i, name in enumerate(self.names) if family_of(name) is None}
        for family, types in self._families.items():
            found |= of_family(family, self.names, sums, types)
        return found


def _weights(groups: int, at_once: int) -> Iterator[np.ndarray]:
    """How often each group is drawn, (draws, groups) at a time, RESAMPLES draws in all; the same in every call."""
    generator = np.random.default_rng(SEED)
    for start in range(0, RESAMPLES, at_once):
        draws = min(at_once, RESAMPLES - start)
        picked = generator.integers(0, groups, (draws, groups)) + groups * np.arange(draws)[:, None]
        yield np.bincount(picked.ravel(), minlength=draws * groups).reshape(draws, groups).astype(float)


def _middle(values: np.ndarray) -> Interval:
    """The ends of the middle 95 % of the draws that have the score."""
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[~np.isnan(values)], (outside, 1 - outside))
    return float(low), float(high)
