"""What Python code and notebooks call beside `run`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.recipe import Recipe
from finetune.recipefile import load_recipe as load_file
from finetune.shipped import recipe_file


def load_recipe(recipe: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Recipe:
    """A recipe, checked, with its parents' values and what `overrides` says on top.

    Args:
        recipe: the YAML file, or `pack:NAME` of a shipped one.
        overrides: values by key, `{"train.max_steps": 20}`, or as `--set` has them, `["train.max_steps=20"]`.

    Raises:
        RecipeError: all that is wrong, each in a line of `problems` with file, line and key.
    """
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    return load_file(recipe_file(str(recipe)), overrides)
