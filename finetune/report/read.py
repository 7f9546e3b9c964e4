"""A run's folder as its files tell of it, whole or stopped half-way: nothing is loaded but JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finetune.checkpoint.runstate import read_run_state
from finetune.errors import CheckpointError, RecipeError
from finetune.report.about import ABOUT

STATE, METRICS, SCORES, RELEASE, MANIFEST = (
    "run_state.json", "metrics.jsonl", "scores.json", "release.json", "MANIFEST.json",
)  # fmt: skip
STAGES = "stages"  # of a chain, the folder of all its stages but the last
Scores = dict[str, float]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """What is known of one run; what its folder does not tell is empty.

    Attributes:
        state: `status`, `step` and, of a failed one, the `reason`; empty of an evaluation, which has none.
        about: run.json, written as it began. manifest: of its bundle, without the files' hashes.
        release: what the gate decided. scores: of base, tuned and perhaps previous. intervals: as the manifest has them.
        metrics: the lines of metrics.jsonl, of each stage of a chain by its name; one without a name otherwise.
        bundle: its folder, None where there is none. notes: files that could not be read.
    """

    folder: Path
    name: str
    state: dict[str, Any]
    about: dict[str, Any]
    manifest: dict[str, Any]
    release: dict[str, Any]
    scores: dict[str, Scores]
    intervals: dict[str, Any]
    recipe: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
    bundle: Path | None
    notes: tuple[str, ...] = field(default=())

    @property
    def status(self) -> str:
        return str(self.state.get("status", ""))

    @property
    def step(self) -> int:
        """The last step that is known of: logged, or of the last checkpoint."""
        last = max((int(line["step"]) for lines in self.metrics.values() for line in lines), default=0)
        return max(last, int(self.state.get("step", 0)))

    @property
    def main(self) -> str | None:
        """The first score, by which the gate compares models."""
        return next(iter(self.scores.get("tuned", {})), None)

    @property
    def when(self) -> str:
        """When its bundle was written, else when it was evaluated, else when it began; empty where nothing tells."""
        return str(self.manifest.get("created") or self.release.get("created") or self.about.get("started") or "")

    def score(self, who: str, name: str) -> float | None:
        return self.scores.get(who, {}).get(name)

    def ends(self, which: str, name: str) -> Interval | None:
        """The 95 % interval of a model's score, or of a `difference`."""
        both = (self.intervals.get(which) or {}).get(name)
        return (float(both[0]), float(both[1])) if both else None


def is_run(folder: Path) -> bool:
    """Whether a run of this tool left something there."""
    return any((folder / name).is_file() for name in (STATE, METRICS))


def read_run(folder: Path) -> Run:
    """The run in `folder`, which may be a run's, an evaluation's or a bundle's.

    Raises:
        RecipeError: there is none.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder")
    if (folder / MANIFEST).is_file() and is_run(folder.parent):
        folder = folder.parent
    bundle = next((place for place in (folder / "bundle", folder) if (place / MANIFEST).is_file()), None)
    if not (is_run(folder) or bundle or (folder / SCORES).is_file()):
        raise RecipeError(f"{folder}: not the folder of a run: no {STATE}, {METRICS}, {SCORES} or bundle in it")
    notes: list[str] = []
    manifest = _json(bundle / MANIFEST, notes) if bundle else {}
    manifest.pop("files", None)
    about, release, told = (_json(folder / name, notes) for name in (ABOUT, RELEASE, SCORES))
    recipe = about.get("recipe") or (_yaml(bundle / "recipe.yaml", notes) if bundle else {})
    scores = told.get("scores") or release.get("scores") or manifest.get("scores") or {}
    intervals = told.get("intervals") or release.get("intervals") or manifest.get("intervals") or {}
    name = manifest.get("name") or release.get("name") or about.get("name") or folder.resolve().name
    metrics = _all_metrics(folder)
    return Run(
        folder, str(name), _state(folder, notes), about, manifest, release, scores, intervals, recipe, metrics,
        bundle, tuple(notes),
    )  # fmt: skip


def _all_metrics(folder: Path) -> dict[str, list[dict[str, Any]]]:
    stages = sorted(place for place in (folder / STAGES).glob("*") if (place / METRICS).is_file())
    found = {place.name: read_metrics(place / METRICS) for place in stages}
    return found | {"": read_metrics(folder / METRICS)}


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines that are whole, each with its `step`."""
    lines = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:  # the last line of a killed run
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _state(folder: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return read_run_state(folder) or {}
    except CheckpointError as error:
        notes += error.problems
        return {}


def _json(file: Path, notes: list[str]) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{file.name}: can't be read: {error}")
        return {}
    if isinstance(told, Mapping):
        return dict(told)
    notes.append(f"{file.name}: not what this tool writes")
    return {}


def _yaml(file: Path, notes: list[str]) -> dict[str, Any]:
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        notes.append(f"{file.name}: can't be read: {error}")
        return {}
    return told if isinstance(told, dict) else {}


def base_of(run: Run) -> str:
    """The base model as a person calls it: the hub's id, or the last part of a path."""
    given = str(
        (run.manifest.get("base") or {}).get("name_or_path") or (run.recipe.get("model") or {}).get("name_or_path", "")
    )
    return given if given.count("/") == 1 and not given.startswith((".", "~", "/")) else Path(given).name


def of_models(run: Run) -> Sequence[str]:
    """The models that have scores, in the order of tables."""
    return [who for who in ("base", "previous", "tuned") if who in run.scores]
