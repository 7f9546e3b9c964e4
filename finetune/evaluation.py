"""`finetune evaluate` and `finetune gate`: a trained adapter asked again, and what its scores decide."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import CheckpointError, GateError, RecipeError, writing
from finetune.evaluate.gate import Check, check_gate
from finetune.evaluate.intervals import Intervals
from finetune.evaluate.previous import find_previous
from finetune.evaluate.release import FILE, PAGES, decide
from finetune.evaluate.results import Evaluated
from finetune.recipefile import load_recipe
from finetune.told import tell

if TYPE_CHECKING:
    from finetune.ready import Ready

KEPT = "scores.json"  # what an evaluation's folder is known by


def evaluate_command(options: argparse.Namespace) -> list[str]:
    """Asks base, adapter and previous release all that the recipe says; lines to print.

    Raises:
        RecipeError, DataError: a mistake in the recipe or its data, no adapter, an output that is there.
        GateError: the gate says no; the pages are written.
    """
    recipe = load_recipe(options.recipe, options.set)
    adapter: Path = options.adapter or recipe.output_dir / "adapter"
    output: Path = options.output or recipe.output_dir.with_name(f"{recipe.output_dir.name}.evaluation")
    if recipe.stages:
        raise RecipeError("stages: a chain's base is made by its earlier stages; it is evaluated at the end of its run")
    if not (adapter / "adapter_config.json").is_file():
        raise RecipeError(f"{adapter}: no adapter (adapter_config.json); train first, or name one with --adapter")
    if output.exists() and not options.overwrite:
        raise RecipeError(f"--output: {output} already exists; give another, or --overwrite it")
    if output.exists() and not (output / KEPT).is_file():
        raise RecipeError(f"--output: {output} does not look like an evaluation (no {KEPT}); remove it")
    from finetune import device
    from finetune.asked import check_engine
    from finetune.inputs import load_stages
    from finetune.log import Log
    from finetune.ready import get_ready
    from finetune.score import evaluate
    from finetune.suites import load_beside

    device.quiet_libraries()
    data = load_stages(recipe)
    beside = load_beside(recipe, data)
    placement = device.start(recipe)
    check_engine(recipe.evaluate.engine, placement)
    before = output.with_name(f"{output.name}.before")
    if placement.accelerator.is_main_process:
        with writing(output):
            if output.exists():
                shutil.rmtree(before, ignore_errors=True)
                output.rename(before)
            output.mkdir(parents=True)
    placement.accelerator.wait_for_everyone()
    log = Log(output, placement.accelerator)
    try:
        ready = get_ready(recipe, data, placement, log)
        _put_in(ready, adapter)
    except RecipeError:
        if placement.accelerator.is_main_process:
            shutil.rmtree(output, ignore_errors=True)  # nothing was measured
            if before.exists():
                before.rename(output)
        raise
    if placement.accelerator.is_main_process:
        shutil.rmtree(before, ignore_errors=True)
    there = recipe.model_copy(update={"output_dir": output})
    with ready.fused:
        evaluated = evaluate(there, ready, placement, log, beside, adapter)
    if evaluated is None:  # not the main process
        return []
    with _told(output, options.json):
        return _lines(output, decide(there, evaluated, beside.previous))


def _put_in(ready: Ready, adapter: Path) -> None:
    """The weights of the adapter in this folder into the peft model that the recipe makes."""
    from finetune.checkpoint.training import load_weights
    from finetune.model.start import check_same_settings

    told = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    try:
        check_same_settings(told, ready.model.peft_config["default"], adapter)
    except RecipeError as error:
        if not (adapter.parent / "MANIFEST.json").is_file():
            raise
        hint = f"--adapter: {adapter} is written for serving, with other settings; the run's own adapter/ is as it was trained"
        raise RecipeError([*error.problems, hint]) from None
    try:
        load_weights(ready.model, adapter)
    except CheckpointError as error:
        raise RecipeError([f"--adapter: {problem}" for problem in error.problems]) from None


def gate_command(options: argparse.Namespace) -> list[str]:
    """Holds the recipe's gate against scores that were measured before; every check in a line.

    Raises:
        RecipeError: no scores there, or a gate that names others.
        GateError: the gate says no.
    """
    recipe = load_recipe(options.recipe, options.set)
    folder: Path = options.scores or recipe.output_dir
    evaluated = read_scores(folder)
    check_gate(recipe.gate, evaluated.scores["tuned"])
    if recipe.gate.of_previous and "previous" not in evaluated.scores:
        raise RecipeError(
            f"{' and '.join(recipe.gate.of_previous)}: no previous release was asked; see {folder / KEPT}"
        )
    previous = find_previous(recipe.evaluate.previous) if recipe.evaluate.previous else None
    with _told(folder, options.json):
        with writing(folder):
            checks = decide(recipe.model_copy(update={"output_dir": folder}), evaluated, previous)
        return _lines(folder, checks)


def read_scores(folder: Path) -> Evaluated:
    """What `scores.json` in a run's or an evaluation's folder tells.

    Raises:
        RecipeError: it is not there, or not to be read.
    """
    file = folder / KEPT
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        intervals = Intervals.of_record(told["intervals"]) if told["intervals"] else None
        scores = {who: dict(told["scores"][who]) for who in told["scores"]}
        if not {"base", "tuned"} <= scores.keys():
            raise ValueError("scores of base and tuned are needed")
        return Evaluated(scores, intervals)
    except FileNotFoundError:
        raise RecipeError(f"{file}: no such file; `finetune train` and `finetune evaluate` write it") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecipeError(f"{file}: not the scores of a run: {error}") from None


@contextmanager
def _told(folder: Path, json_place: str | None) -> Iterator[None]:
    """What is decided inside, as release.json has it, for `--json`: also where the gate says no."""
    try:
        yield
    except GateError:
        tell(json_place, json.loads((folder / FILE).read_text(encoding="utf-8")))
        raise
    tell(json_place, json.loads((folder / FILE).read_text(encoding="utf-8")))


def _lines(folder: Path, checks: list[Check]) -> list[str]:
    passed = [f"passed: {check.said}" for check in checks]
    return [*passed, *(f"{folder / name}" for name in (*PAGES, FILE))]
