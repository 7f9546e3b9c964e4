"""One page that compares runs: how they ended, their scores and curves, what their recipes differ in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.checkpoint.disk import replace_file
from finetune.errors import writing
from finetune.report.compare import facts_of, notes_of, recipe_differences, scores_of
from finetune.report.curves import HELD_OUT, LOSS, points_of, thinned
from finetune.report.found import Summary
from finetune.report.page import render, writable
from finetune.report.plots import OF_RUNS, runs_svg, scores_svg
from finetune.report.read import Run
from finetune.report.tables import Cell, Line
from finetune.report.verdict import GATE, STATES
from finetune.report.words import Said

CURVES = ((LOSS, Said("Training loss", "训练损失")), (HELD_OUT, Said("Held-out loss", "留出损失")))


def write_runs_page(runs: Sequence[Run], summaries: Sequence[Summary], file: Path) -> None:
    """The page of these runs into `file`, whole or not at all.

    Raises:
        RecipeError: it can't be written.
    """
    shown = range(min(len(runs), len(OF_RUNS)))  # a colour each
    facts: dict[str, Any] = {
        "summaries": summaries,
        "colours": [OF_RUNS[place] if place in shown else "" for place in range(len(runs))],
        "pictures": _pictures(summaries),
        "curves": [(title, _curves([runs[place] for place in shown], key)) for key, title in CURVES],
        "scores": scores_of(runs),
        "facts": facts_of(runs),
        "differences": recipe_differences(runs),
        "notes": notes_of(runs),
        "many": len(runs) > len(OF_RUNS),
        "states": STATES,
        "gates": GATE,
    }
    page = render("runs.html.jinja", facts)
    with writing(file):
        replace_file(file, writable(page))


def _pictures(summaries: Sequence[Summary]) -> list[tuple[str, str]]:
    """(name of the first score, picture of the runs that have it) where it lies between 0 and 1."""
    names = dict.fromkeys(one.score for one in summaries if one.score)
    found = []
    for place, name in enumerate(names):
        lines = [
            Line(one.run, (Cell(one.base, None), Cell(one.tuned, one.interval)), ())
            for one in summaries
            if one.score == name and all(value is None or 0 <= value <= 1 for value in (one.base, one.tuned))
        ]
        if lines:
            found.append((name, scores_svg(lines, ("base", "tuned"), f"main-{place}")))
    return found


def _curves(runs: Sequence[Run], key: str) -> str:
    """The curve of each run that has one, in its colour; empty where none has."""
    points = [thinned(*points_of(run.metrics.get("", []), key)) for run in runs]
    return runs_svg(points, key) if any(steps for steps, _ in points) else ""
