"""metrics.jsonl as curves: which line holds what, and as many points as a page can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.report.words import Said

POINTS = 600  # of a curve on the page; more are averaged in blocks
LOSS, HELD_OUT = "loss", "eval_loss"


@dataclass(frozen=True)
class Series:
    """One curve: what it is called in the legend, and its points, step by step."""

    label: Said
    colour: str
    steps: list[float]
    values: list[float]
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """One picture: name (a word), title with its unit, curves; without curves it was not measured."""

    name: str
    title: Said
    series: list[Series]

    @property
    def last(self) -> float | None:
        """The last value of the first curve."""
        return self.series[0].values[-1] if self.series else None


TRAIN, HELD = Said("training", "训练"), Said("held out", "留出")
# Name, title, (key, label, colour, drawn as dots) of each curve.
CHARTS: tuple[tuple[str, Said, tuple[tuple[str, Said, str, bool], ...]], ...] = (
    (LOSS, Said("Loss", "损失"), ((LOSS, TRAIN, "tuned", False), (HELD_OUT, HELD, "held", True))),
    ("reward", Said("Reward", "奖励"), (("reward", TRAIN, "tuned", False), ("eval_reward", HELD, "held", True))),
    ("learning_rate", Said("Learning rate", "学习率"), (("learning_rate", TRAIN, "tuned", False),)),
    ("grad_norm", Said("Gradient norm, the largest", "梯度范数（最大值）"),
     (("grad_norm", TRAIN, "tuned", False),)),
    ("tokens_per_second", Said("Throughput, tokens a second", "吞吐，词元每秒"),
     (("tokens_per_second", TRAIN, "tuned", False),)),
    ("peak_memory_gib", Said("Peak memory, GiB", "内存峰值，GiB"), (("peak_memory_gib", TRAIN, "tuned", False),)),
)  # fmt: skip
SOME_STAGES = ("reward",)  # a run without it lacks nothing


def charts_of(lines: Sequence[dict[str, Any]]) -> list[Chart]:
    """All of them, in order; those that only some stages have are left out where there is nothing to show."""
    charts = []
    for name, title, curves in CHARTS:
        series = [
            Series(label, colour, *thinned(*found), dots=dots)
            for key, label, colour, dots in curves
            if (found := points_of(lines, key))[0]
        ]
        if series or name not in SOME_STAGES:
            charts.append(Chart(name, title, series))
    return charts


def points_of(lines: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the lines that have a finite number there."""
    found = [(float(line["step"]), float(line[key])) for line in lines if _finite(line.get(key))]
    return [step for step, _ in found], [value for _, value in found]


def broken_steps(lines: Sequence[dict[str, Any]]) -> list[int]:
    """Steps whose loss or gradient norm was not finite: metrics.jsonl has them as text."""
    return [int(line["step"]) for line in lines if any(isinstance(line.get(key), str) for key in (LOSS, "grad_norm"))]


def thinned(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """At most POINTS points: means of blocks of equally many neighbours."""
    size = math.ceil(len(steps) / POINTS)
    if size <= 1:
        return steps, values
    blocks = range(0, len(steps), size)
    return (
        [_mean(steps[start : start + size]) for start in blocks],
        [_mean(values[start : start + size]) for start in blocks],
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
