"""The audit as files: audit.json with every row that was dropped or found, and audit.html, one page to look at."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count, groupby
from pathlib import Path
from typing import Any

import jinja2

from finetune.data.audit import GROUPS
from finetune.data.audit_types import Audit, Dropped, Lengths
from finetune.data.screen import KINDS, SETTING, Finding
from finetune.errors import writing

FORMAT = 1  # of audit.json
ROWS = 200  # rows of a list on the page; audit.json has them all
SOURCES = 100  # sources on the page
WIDE = 240  # characters of a reason, a place or a note on the page
TOKEN_WIDE = 60  # characters of one token on the page

MARKS = {" ": "·", "\n": "⏎", "\t": "⇥"}
TITLES = {"duplicates": "Duplicates", "leaks": "Leaks", "personal_data": "Personal data", "secrets": "Secrets"}


def write(audit: Audit, folder: Path) -> tuple[Path, Path]:
    """Writes audit.json and audit.html into `folder`, which is made; the same audit gives the same bytes.

    Raises:
        RecipeError: the folder can't be written.
    """
    numbers, page = folder / "audit.json", folder / "audit.html"
    text = json.dumps(to_json(audit), ensure_ascii=False, indent=1)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        numbers.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")  # a lone surrogate becomes \udXXX
        page.write_text(to_html(audit), encoding="utf-8")
    return numbers, page


def to_json(audit: Audit) -> dict[str, Any]:
    """The audit as plain values: every row that was dropped or found, and of the samples shown only their lineage."""
    numbers = {"format": FORMAT, "name": audit.name, "failed": audit.failed} | asdict(replace(audit, shown=()))
    lineage = ("where", "source", "format", "sha256", "tokens", "trained")
    numbers["shown"] = [{key: getattr(item, key) for key in lineage} for item in audit.shown]
    return numbers


def to_html(audit: Audit) -> str:
    """One page without scripts or anything to load; text from the data is escaped, what is invisible is spelt out."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"n": "{:,}".format, "share": _share, "clip": _clip, "pieces": _pieces}
    return environment.get_template("audit.html.jinja").render(
        audit=audit,
        rows=ROWS,
        sources=audit.sources[:SOURCES],
        chart=None if audit.lengths is None else draw(audit.lengths, audit.max_length),
        dropped_kinds=_dropped_kinds(audit.dropped),
        groups=[_group(audit, name) for name in GROUPS],
    )


@dataclass(frozen=True)
class Bar:
    """One bar in SVG units, and the words shown when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Chart:
    """The histogram in SVG units, y downwards: bars, ticks as (place, label), the line at max_length if it is in view."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    bars: tuple[Bar, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    limit: float | None


def draw(lengths: Lengths, max_length: int) -> Chart:
    """The histogram. The axis reaches max_length unless that would leave a third of it empty."""
    width, height, left, right, top, bottom = 760, 230, 56, 744, 26, 196
    end = len(lengths.bins) * lengths.width
    in_view = max_length <= end * 1.5
    end = max(end, max_length + lengths.width) if in_view else end
    most = max(lengths.bins)

    def x(tokens: float) -> float:
        return round(left + (right - left) * tokens / end, 1)

    def y(samples: float) -> float:
        return round(bottom - (bottom - top) * samples / most, 1)

    bars = []
    for i, samples in enumerate(lengths.bins):
        first, following = i * lengths.width, (i + 1) * lengths.width
        tall = min(y(samples), bottom - 1)  # one sample among thousands is seen too
        title = f"{first:,} to {following - 1:,} tokens: {samples:,} samples"
        if samples:
            bars.append(Bar(x(first), tall, round(max(0.5, x(following) - x(first) - 1), 1), bottom - tall, title))
    return Chart(
        width, height, left, right, top, bottom, tuple(bars),
        x_ticks=tuple((x(tick), f"{tick:,}") for tick in _ticks(end, 8)),
        y_ticks=tuple((y(tick), f"{tick:,}") for tick in _ticks(most, 4)),
        limit=x(max_length) if in_view else None,
    )  # fmt: skip


def _ticks(end: int, most: int) -> range:
    """At most `most` steps of 1, 2 or 5 times a power of ten from 0 to `end`."""
    step = next(step * 10**k for k in count() for step in (1, 2, 5) if end // (step * 10**k) <= most)
    return range(0, end + 1, step)


@dataclass(frozen=True)
class Group:
    """Findings under one heading: rows of (kind, setting, found or None where nobody looked, actions), and the finds."""

    title: str
    total: int
    kinds: tuple[tuple[str, str, int | None, str], ...]
    findings: tuple[Finding, ...]


def _group(audit: Audit, name: str) -> Group:
    findings = tuple(item for item in audit.findings if SETTING[item.kind] in GROUPS[name])
    kinds = []
    for kind in (kind for setting in GROUPS[name] for kind in KINDS[setting]):
        actions = sorted({item.action for item in findings if item.kind == kind})
        kinds.append((kind, SETTING[kind], audit.counts[name].get(kind), ", ".join(actions)))
    return Group(TITLES[name], sum(audit.counts[name].values()), tuple(kinds), findings[:ROWS])


def _dropped_kinds(dropped: Sequence[Dropped]) -> list[tuple[str, int]]:
    """(reason, rows), the most frequent first."""
    kinds: dict[str, int] = {}
    for item in dropped:
        kinds[item.kind] = kinds.get(item.kind, 0) + 1
    return sorted(kinds.items(), key=lambda pair: -pair[1])


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _invisible(character: str) -> bool:
    """Controls, formats (zero width, direction), surrogates, private use, line separators, odd spaces."""
    return character != " " and unicodedata.category(character)[0] in "CZ"


def _clip(text: str, most: int = WIDE) -> str:
    """Text for a table cell: one line of at most `most` characters, invisible characters as ⟨U+200B⟩."""
    shown = "".join(f"⟨U+{ord(c):04X}⟩" if _invisible(c) else c for c in text[:most].replace("\n", "⏎"))
    return shown + "…" if len(text) > most else shown


def _pieces(text: str) -> list[tuple[bool, str]]:
    """A token's text as (is a mark, text): white space and invisible characters become marks that are seen."""
    pieces = []
    for character, run in groupby(text[:TOKEN_WIDE]):
        times = len(list(run))
        mark = MARKS.get(character, f"U+{ord(character):04X} " if _invisible(character) else "")
        pieces.append((bool(mark), (mark or character) * times))
        if character == "\n":
            pieces.append((False, "\n" * times))
    return [*pieces, (True, "…")] if len(text) > TOKEN_WIDE else pieces
