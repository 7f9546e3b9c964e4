"""`finetune check`: recipe, data template and every row, without a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from finetune.recipefile import load_recipe
from finetune.told import tell

if TYPE_CHECKING:
    from finetune.suites import Beside


def check_command(options: argparse.Namespace) -> list[str]:
    """The lines to print of a recipe that is right.

    Raises:
        RecipeError, DataError: everything that is wrong with it.
    """
    recipe = load_recipe(options.recipe, options.set)
    from finetune.inputs import load_stages
    from finetune.suites import load_beside

    loaded = load_stages(recipe)
    beside = load_beside(recipe, loaded)
    several = bool(recipe.stages or recipe.mixture)
    runs, lines = [], []
    for run, data in zip(recipe.stages or recipe.mixture or (recipe,), loaded, strict=True):
        named = f"{'stage' if recipe.stages else 'part'} {run.name}: " if several else ""
        train, held_out, notes = len(data.train), len(data.evaluate), list(data.notes)
        runs.append({"name": run.name, "stage": run.stage, "train": train, "held_out": held_out, "notes": notes})
        lines.append(f"{options.recipe}: {named}right; {train} samples to train on, {held_out} held out")
        lines += [f"{options.recipe}: {named}note: {note}" for note in notes]
    tell(options.json, {"recipe": str(options.recipe), "name": recipe.name, "runs": runs, **_as_json(beside)})
    return lines + _of_questions(beside)


def _of_questions(beside: Beside) -> list[str]:
    """What is asked beside the held-out rows."""
    lines = [f"suite {name}: {len(its.evaluate)} questions" for name, its in beside.suites.items()]
    lines += [f"lm-eval: {', '.join(beside.harness.names)}"] if beside.harness else []
    previous = beside.previous
    return [*lines, f"previous release: {previous.name}, {previous.created}"] if previous else lines


def _as_json(beside: Beside) -> dict[str, Any]:
    previous = beside.previous
    return {
        "suites": {name: len(its.evaluate) for name, its in beside.suites.items()},
        "lm_eval": list(beside.harness.names) if beside.harness else [],
        "previous": {"name": previous.name, "created": str(previous.created)} if previous else None,
    }
