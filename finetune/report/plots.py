"""Curves and scores as SVG to stand in a page: matplotlib draws, the page's style sheet gives colours and font."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from finetune.report.curves import Chart
from finetune.report.tables import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that matplotlib draws in, and the variables of the page that take their place: so light and dark follow.
VARIABLES = {
    "#010101": "var(--soft)", "#020202": "var(--line)", "#030303": "var(--tuned)", "#040404": "var(--held)",
    "#050505": "var(--base)", "#060606": "var(--previous)",
}  # fmt: skip
TEXT, GRID = "#010101", "#020202"
INK = {"tuned": "#030303", "held": "#040404", "base": "#050505", "previous": "#060606"}
OF_RUNS = ("var(--run1)", "var(--run2)", "var(--run3)", "var(--run4)", "var(--run5)", "var(--run6)")
WIDTH, HEIGHT, WIDE = 3.7, 1.8, 5.0  # inches, of a curve and of the scores; the page scales them
SCORES = 14  # lines of the picture of scores
NAME = 26  # letters of a score's name beside it

STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 9, "axes.edgecolor": GRID, "axes.labelcolor": TEXT,
    "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": TEXT, "ytick.labelcolor": TEXT, "text.color": TEXT,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "ytick.major.size": 0, "xtick.major.size": 3,
}  # fmt: skip


def curve_svg(chart: Chart, name: str) -> str:
    """One chart with its curves over the steps; `name`: of no other picture on the page."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure, axes = _figure(HEIGHT)
        for series in chart.series:
            _curve(axes, series.steps, series.values, INK[series.colour], series.dots)
        _frame(axes)
        return _svg(figure, name)


def runs_svg(curves: Sequence[tuple[list[float], list[float]]], name: str) -> str:
    """The same quantity of several runs, (steps, values) each, in the colours OF_RUNS in turn."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure, axes = _figure(2.4)
        for place, (steps, values) in enumerate(curves):
            _curve(axes, steps, values, f"#0a000{place % len(OF_RUNS)}", dots=False)
        _frame(axes)
        return _svg(figure, name)


def scores_svg(lines: Sequence[Line], models: Sequence[str], name: str) -> str:
    """Scores between 0 and 1, a line each: every model's value as a dot on its interval."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure, axes = _figure(0.42 + 0.27 * len(lines), WIDE, left=1.72)
        for place, line in enumerate(lines):
            apart = 0.2 if len(models) > 1 else 0.0
            for number, (who, cell) in enumerate(zip(models, line.models, strict=True)):
                if cell.value is None:
                    continue
                height = place - apart / 2 + apart * number / max(1, len(models) - 1)
                if cell.ends:
                    axes.plot(
                        cell.ends, (height, height), color=INK[who], linewidth=2, solid_capstyle="round", alpha=0.45
                    )
                axes.plot([cell.value], [height], "o", color=INK[who], markersize=4.5)
        axes.set_yticks(range(len(lines)), [f"@{place}@" for place in range(len(lines))])
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(axis="y", visible=False)
        drawn = _svg(figure, name)
    for place, line in enumerate(lines):  # matplotlib's own font has no Chinese, and it would set $x$ as a formula
        drawn = drawn.replace(f">@{place}@<", f">{escape(_short(line.name))}<")
    return drawn


def _figure(height: float, width: float = WIDTH, left: float = 0.55) -> tuple[Figure, Axes]:
    """A figure of so many inches with fixed margins: laying out by measuring text would take as long again."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, 0.27 / height, 1 - (left + 0.14) / width, 1 - 0.37 / height))
    for patch in (figure.patch, axes.patch):
        patch.set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _curve(axes: Axes, steps: Sequence[float], values: Sequence[float], colour: str, dots: bool) -> None:
    alone = len(steps) == 1
    axes.plot(steps, values, color=colour, linewidth=1.5, marker="o" if dots or alone else None, markersize=3.5)


def _frame(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:.6g}")  # never as 1e-3 times what stands there
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.02, y=0.08)


def _short(name: str) -> str:
    """The name, its middle left out where it is wider than NAME letters; a Chinese character is as wide as two."""
    if _width(name) <= NAME:
        return name
    ends = ["", ""]
    for first, last in zip(name, reversed(name), strict=True):
        if _width(ends[0] + first + last + ends[1]) >= NAME:
            break
        ends = [ends[0] + first, last + ends[1]]
    return "…".join(ends)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _svg(figure: Figure, name: str) -> str:
    """The figure's `<svg>` element: the page's colours and font, ids that no other picture of the page has."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r' font-family: [^;"]*;?', "", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', 'class="plot" aria-hidden="true" ', text, count=1)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{re.escape(name)}-", text)
    for ink, variable in VARIABLES.items():
        text = text.replace(ink, variable)
    for place, variable in enumerate(OF_RUNS):
        text = text.replace(f"#0a000{place}", variable)
    return text
