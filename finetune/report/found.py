"""The runs under a folder, and a line on each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.report.read import MANIFEST, Interval, Run, base_of, is_run, read_run
from finetune.report.verdict import gate_of
from finetune.report.words import ends, number

DEEP = 4  # folders below the given one
UNKNOWN = "unknown"  # the state of a run whose run_state.json can't be read


@dataclass(frozen=True)
class Summary:
    """A run in a list.

    Attributes:
        run: where it lies below the folder that was looked through. recipe: its name.
        score: the name of its first score; base, tuned, interval: what it came to, interval that of the tuned model.
        gate: passed, failed, none (nothing was asked for) or unasked (the run did not come to it).
    """

    run: str
    when: str
    recipe: str
    base_model: str
    state: str
    step: int
    score: str | None
    base: float | None
    tuned: float | None
    interval: Interval | None
    gate: str

    def cells(self) -> list[str]:
        """For a table of HEADS."""
        state = self.state if self.state == "finished" else f"{self.state}, step {self.step}"
        came_to = f"{number(self.base)} → {number(self.tuned)}" if self.score else "–"
        return [
            self.run, self.when[:16].replace("T", " "), self.recipe, self.base_model, state, self.score or "–", came_to,
            ends(self.interval), self.gate,
        ]  # fmt: skip


HEADS = ["run", "when (UTC)", "recipe", "base model", "state", "first score", "base → tuned", "95 %", "gate"]


def find_runs(folder: Path) -> list[Run]:
    """All runs in or below the folder, the newest first; a run's own folders are not looked into.

    Raises:
        RecipeError: no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder; name the one that holds your runs: finetune runs FOLDER")
    found = [read_run(place) for place in _walk(folder, DEEP)]
    if not found:
        raise RecipeError(f"{folder}: no run in it (run_state.json, metrics.jsonl), {DEEP} folders deep")
    return sorted(found, key=lambda run: run.when, reverse=True)


def _walk(folder: Path, deep: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
    elif deep and not (folder / MANIFEST).is_file():
        for place in sorted(folder.iterdir()):
            if place.is_dir() and not place.is_symlink() and not place.name.startswith("."):
                yield from _walk(place, deep - 1)


def summary_of(run: Run, folder: Path) -> Summary:
    """The line of a run found below `folder`."""
    name = run.main
    return Summary(
        run=_below(run.folder, folder),
        when=run.when,
        recipe=run.name,
        base_model=base_of(run) or "–",
        state=run.status or UNKNOWN,
        step=run.step,
        score=name,
        base=run.score("base", name) if name else None,
        tuned=run.score("tuned", name) if name else None,
        interval=run.ends("tuned", name) if name else None,
        gate=gate_of(run),
    )


def _below(place: Path, folder: Path) -> str:
    place, folder = place.absolute(), folder.absolute()
    inside = place.relative_to(folder) if place.is_relative_to(folder) else place
    return str(inside) if str(inside) != "." else place.resolve().name


def as_json(summary: Summary, run: Run) -> dict[str, Any]:
    """The line as plain values, with where the run lies and how long it took."""
    told = {"folder": str(run.folder)} | vars(summary)
    return told | {"seconds": (run.manifest.get("training") or {}).get("seconds")}
