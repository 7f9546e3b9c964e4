"""`finetune iterate`: one turn of the wheel. Logs become a data version, the recipe trains on it beside what it had, and the
gate decides, against the release before, whether there is a new one.

A folder holds the wheel: data/v0001, recipes/v0001.yaml, runs/v0001 and wheel.json, which says what came of each turn and
which bundle is the release now.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.checkpoint.disk import replace_file
from finetune.device import launched, local_rank
from finetune.errors import GateError, RecipeError, writing
from finetune.evaluate.previous import find_previous
from finetune.evaluate.release import FILE as RELEASE
from finetune.feedback.extension import extending_recipe
from finetune.feedback.folder import write_folder
from finetune.feedback.intake import import_logs
from finetune.feedback.settings import Settings
from finetune.feedback.version import add_version, read_version, record_use, version_names
from finetune.inputs import known_scores, load_data
from finetune.recipefile import load_recipe
from finetune.told import tell

FILE = "wheel.json"
TURN = ("version", "passed", "main", "scores", "rows", "bundle")  # what each turn in it tells at least


@dataclass(frozen=True)
class Wheel:
    """The folder and what wheel.json says.

    Attributes:
        turns: oldest first; each with `version`, `passed`, `rows`, `left_out`, `main` (the first score's name), `scores` of
            it by model, `run` and `bundle`, from the folder, and the `reason` that it was no release for.
    """

    folder: Path
    turns: tuple[dict[str, Any], ...]

    @property
    def release(self) -> dict[str, Any] | None:
        """The newest turn that made a release."""
        return next((turn for turn in reversed(self.turns) if turn["passed"]), None)

    @property
    def unfinished(self) -> str | None:
        """The version whose turn is not written down."""
        names = version_names(self.folder / "data")
        return names[-1] if names and names[-1] not in {turn["version"] for turn in self.turns} else None

    def recipe(self, version: str) -> Path:
        return self.folder / "recipes" / f"{version}.yaml"

    def run(self, version: str) -> Path:
        return self.folder / "runs" / version


def iterate_command(options: argparse.Namespace) -> list[str]:
    """Begins a turn with logs, or ends the one that is unfinished; lines to print.

    Raises:
        RecipeError, DataError: mistakes in options, logs or recipe; a turn that is unfinished, or none to go on with.
        GateError: the new model is no release; what was found is written down.
    """
    wheel = read_wheel(options.into)
    if options.logs and wheel.unfinished:
        raise RecipeError(
            f"--into {wheel.folder}: the turn of {wheel.unfinished} is unfinished; without logs the same command ends it"
        )
    if not options.logs and not wheel.unfinished:
        raise RecipeError(f"--into {wheel.folder}: no turn is unfinished; give the logs of a new one")
    said: list[str] = []
    if options.logs:
        if launched() and not options.prepare:
            raise RecipeError(
                "logs are read by one process: begin the turn with --prepare, then launch it without logs"
            )
        said = begin(wheel, options)
    if options.prepare:
        _tell_turn(options)
        return said
    if local_rank() == 0:
        print(*said, sep="\n", end="\n" if said else "", flush=True)
    try:
        lines = end(read_wheel(options.into))
    except GateError:
        _tell_turn(options)
        raise
    _tell_turn(options)
    return lines


def _tell_turn(options: argparse.Namespace) -> None:
    """The last turn as wheel.json has it, for `--json`; by one process."""
    if local_rank() == 0:
        tell(options.json, read_wheel(options.into).turns[-1])


def read_wheel(folder: Path) -> Wheel:
    """The wheel in a folder; one without turns where there is none.

    Raises:
        RecipeError: wheel.json is not to be read.
    """
    file = folder / FILE
    if not file.is_file():
        return Wheel(folder, ())
    try:
        turns = json.loads(file.read_text(encoding="utf-8"))["turns"]
        lacking = [key for turn in turns for key in TURN if key not in turn]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecipeError(f"{file}: not that of a wheel: {error}") from None
    if lacking:
        raise RecipeError(f"{file}: not that of a wheel: a turn has no {', '.join(dict.fromkeys(lacking))}")
    return Wheel(folder, tuple(turns))


def begin(wheel: Wheel, options: argparse.Namespace) -> list[str]:
    """A data version out of the logs and the recipe that trains on it; what the logs came to, in lines."""
    parent = wheel.recipe(wheel.release["version"]) if wheel.release else options.recipe
    release = _release(wheel, options, parent)
    known = tuple(_data_of(wheel))
    imported = import_logs(options.logs, Settings(recipe=parent, known=known))
    draft = wheel.folder / ".import"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with writing(wheel.folder):
            wheel.folder.mkdir(parents=True, exist_ok=True)
        write_folder(draft, imported)
        version = add_version(wheel.folder / "data", draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    target = wheel.recipe(version.name)
    try:
        told = yaml.safe_load(extending_recipe(parent, version, target, options.repeat))
        told["output_dir"] = str(wheel.run(version.name).resolve())
        if release is not None:
            told["evaluate"] = {"previous": str(release.resolve())}
            told["gate"] = {"max_drop_previous": _drops(parent, options)}
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
    except BaseException:
        shutil.rmtree(version.folder)  # a version without a recipe would be an unfinished turn that none can finish
        raise
    record_use(version, target)
    rows = ", ".join(f"{count:,} in {name}" for name, count in version.rows().items())
    reasons = "".join(f", {count:,} {reason}" for reason, count in imported.reasons().items())
    return [
        f"{version.name}: {rows}; left out {len(imported.left_out):,}{reasons}",
        f"recipe: {target}",
        f"release before: {release}" if release else "release before: none; the new model is compared with its base",
    ]


def end(wheel: Wheel) -> list[str]:
    """Trains what the unfinished turn asks for, from its checkpoints on, and writes down what came of it."""
    from finetune.run import run

    version = wheel.unfinished
    assert version is not None
    failed: GateError | None = None
    recipe = load_recipe(wheel.recipe(version))
    try:
        result = run(recipe, resume="auto")
    except GateError as error:  # the gate, or a proof of the export, which would say the same of the same weights again
        if not (wheel.run(version) / RELEASE).is_file():
            raise  # nothing has been scored: the adapter's file was not what was to be saved
        result, failed = None, error
    if local_rank() != 0 or (result is None and failed is None):
        return []
    turn = _turn(wheel, version, failed)
    now = Wheel(wheel.folder, (*wheel.turns, turn))
    replace_file(wheel.folder / FILE, json.dumps({"turns": now.turns}, ensure_ascii=False, indent=2) + "\n")
    told = f"release: {wheel.folder / now.release['bundle']}" if now.release else "release: none"
    lines = [*turn_lines(now.turns), told]
    if failed is not None:
        raise GateError("\n".join([str(failed), *lines]))
    return lines


def turn_lines(turns: Sequence[dict[str, Any]]) -> list[str]:
    """A table of all turns: rows that came in, the main score of each model, what was decided."""
    cells = [("turn", "rows", "score", "base", "previous", "tuned", "")]
    for turn in turns:
        scores = [turn["scores"].get(who) for who in ("base", "previous", "tuned")]
        shown = ["-" if value is None else f"{value:.3f}" for value in scores]
        decided = "released" if turn["passed"] else "not released"
        cells.append((turn["version"], str(sum(turn["rows"].values())), turn["main"], *shown, decided))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _release(wheel: Wheel, options: argparse.Namespace, parent: Path) -> Path | None:
    """The bundle that the new model is compared with."""
    if wheel.release:
        return wheel.folder / wheel.release["bundle"]
    if options.release is not None:
        return find_previous(options.release).folder
    bundle = load_recipe(parent).output_dir / "bundle"
    return bundle if (bundle / "MANIFEST.json").is_file() else None


def _data_of(wheel: Wheel) -> list[Path]:
    """The data versions that the release was trained on: those of turns that were no release are not among them."""
    released = {turn["version"] for turn in wheel.turns if turn["passed"]}
    return [wheel.folder / "data" / name for name in version_names(wheel.folder / "data") if name in released]


def _drops(parent: Path, options: argparse.Namespace) -> dict[str, float]:
    """What the recipe says itself, or how far its first score may fall."""
    recipe = load_recipe(parent)
    if recipe.gate.max_drop_previous:
        return dict(recipe.gate.max_drop_previous)
    names = [*recipe.settings.held_out_scores, *(known_scores(load_data(recipe)) if recipe.settings.answers else ())]
    return {names[0]: options.max_drop}


def _turn(wheel: Wheel, version: str, failed: GateError | None) -> dict[str, Any]:
    passed = failed is None
    told = _release_told(wheel, version)
    data = read_version(wheel.folder / "data" / version)
    record = json.loads((data.folder / "feedback.json").read_text(encoding="utf-8"))
    main = next(iter(told["scores"]["tuned"]))
    return {
        "version": version,
        "passed": passed,
        "rows": data.rows(),
        "left_out": record.get("left_out", {}),
        "main": main,
        "scores": {who: its[main] for who, its in told["scores"].items() if main in its},
        "checks": told["checks"],
        "run": f"runs/{version}",
        "bundle": f"runs/{version}/bundle" if passed else None,
        "reason": (str(failed).splitlines() or [""])[0] if failed is not None else None,
        "ended": told["created"],
    }


def _release_told(wheel: Wheel, version: str) -> dict[str, Any]:
    return json.loads((wheel.run(version) / RELEASE).read_text(encoding="utf-8"))
