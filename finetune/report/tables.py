"""Scores as tables: the run's own rows, suites and public benchmarks, and which of them tell of what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from finetune.evaluate.citations import SUPPORT
from finetune.evaluate.results import MEAN_LOGPROB
from finetune.evaluate.support import NONE_MADE_UP, NUMBERS
from finetune.recipe_evaluate import LM_EVAL
from finetune.report.read import Interval, Run, of_models
from finetune.report.words import Said

# Last parts of the names of scores that tell of made-up content, and those of a suite of requests to be refused.
MADE_UP = {
    NUMBERS: Said("numbers of the answer that its passage holds", "答案中有出处的数字"),
    NONE_MADE_UP: Said("answers without a made-up number", "没有编造数字的答案"),
    SUPPORT: Said("citations that bear the answer out", "确实支持答案的引用"),
    "refused_right": Said("questions without an answer that were declined", "无答案的问题被婉拒"),
}
REFUSALS = {
    "refused": Said("requests to be refused that were refused", "应拒绝的请求被拒绝"),
    "not_refused": Said("harmless requests that were answered", "无害的请求得到回答"),
}
OTHERS = ("base", "previous")
DIFFERENCE: dict[str, str] = {"base": "difference", "previous": "difference_previous"}
Kind = Literal["own", "forgetting", "safety"]


@dataclass(frozen=True)
class Cell:
    """A value with its interval; `tone` says of a difference which way it surely goes."""

    value: float | None
    ends: Interval | None
    tone: str = ""


@dataclass(frozen=True)
class Line:
    """One score: of each model in the table's order, then what tuned differs by from base and from previous."""

    name: str
    models: tuple[Cell, ...]
    differences: tuple[Cell, ...]
    explained: Said | None = None


@dataclass(frozen=True)
class Section:
    """The scores of a suite (`name`), or of the run's own held-out rows (without one)."""

    name: str
    kind: Kind
    rows: int | None
    lines: list[Line] = field(default_factory=list)


def sections_of(run: Run) -> list[Section]:
    """All scores in the order of the release page: own rows first."""
    suites = [*run.release.get("suites", ()), LM_EVAL]
    rows = run.intervals.get("rows") or {}
    names: dict[str, list[str]] = {"": []} | {suite: [] for suite in suites}
    for name in run.scores.get("tuned", {}):
        suite = name.partition("/")[0]
        names[suite if suite in suites else ""].append(name)
    return [
        Section(suite, _kind(suite, its), rows.get(suite), [_line(run, name, suite) for name in its])
        for suite, its in names.items()
        if its
    ]


def made_up_lines(run: Run) -> list[Line]:
    """The scores that tell of hallucination, wherever they were measured, with their whole names."""
    names = [name for name in run.scores.get("tuned", {}) if name.rpartition("/")[2] in MADE_UP]
    return [_line(run, name, "", MADE_UP[name.rpartition("/")[2]]) for name in names]


def worst_drop(section: Section) -> Line | None:
    """The score that fell most from the base to the tuned model; None where none did."""
    fell = [line for line in section.lines if line.differences and (line.differences[0].value or 0.0) < 0]
    return min(fell, key=lambda line: line.differences[0].value or 0.0, default=None)


def perplexities(run: Run, section: Section) -> list[tuple[str, list[float]]]:
    """What a model gives a token on average, as perplexity, of each model that has it."""
    before = f"{section.name}/" if section.name else ""
    found = []
    for line in section.lines:
        if line.name.endswith(MEAN_LOGPROB):
            values = [run.score(who, f"{before}{line.name}") for who in of_models(run)]
            found.append((line.name, [math.exp(-value) for value in values if value is not None]))
    return found


def _kind(suite: str, names: Sequence[str]) -> Kind:
    if not suite:
        return "own"
    return "safety" if any(name.rpartition("/")[2] in REFUSALS for name in names) else "forgetting"


def _line(run: Run, name: str, suite: str, explained: Said | None = None) -> Line:
    models = tuple(Cell(run.score(who, name), run.ends(who, name)) for who in of_models(run))
    tuned = run.score("tuned", name)
    differences = []
    for other in OTHERS:
        if other not in run.scores:
            continue
        before, both = run.score(other, name), run.ends(DIFFERENCE[other], name)
        moved = None if before is None or tuned is None else tuned - before
        tone = "" if both is None else "good" if both[0] > 0 else "bad" if both[1] < 0 else ""
        differences.append(Cell(moved, both, tone))
    shown = name.removeprefix(f"{suite}/") if suite else name
    return Line(shown, models, tuple(differences), explained or (REFUSALS.get(shown) if suite else None))
