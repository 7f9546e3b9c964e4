"""Parameter-efficient fine-tuning for vertical-industry language models.

From Python, as in a notebook:

    from finetune import load_recipe, run

    recipe = load_recipe("pack:meteorology/metar_decode", {"output_dir": "runs/mine", "train.max_steps": 20})
    result = run(recipe)            # what `finetune train` does; see finetune.run.run
    result.scores["tuned"], result.bundle

What is wrong with a recipe or its data is a `RecipeError` or `DataError` with all `problems`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.api import load_recipe
    from finetune.errors import DataError, GateError, RecipeError, TrainingError
    from finetune.recipe import Recipe
    from finetune.run import Result, run

__version__ = "0.1.0"
__all__ = ["DataError", "GateError", "Recipe", "RecipeError", "Result", "TrainingError", "load_recipe", "run"]

_HOMES = {
    "finetune.api": ("load_recipe",),
    "finetune.errors": ("DataError", "GateError", "RecipeError", "TrainingError"),
    "finetune.recipe": ("Recipe",),
    "finetune.run": ("Result", "run"),
}


def __getattr__(name: str) -> Any:
    """Each name of `__all__` when it is first asked for: `finetune --help` needs neither pydantic nor torch."""
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    if home == "finetune.run":
        from finetune.device.environment import before_torch

        before_torch()
    return getattr(import_module(home), name)


class _Package(ModuleType):
    """The import system makes a submodule an attribute of its package; `finetune.run` is to stay the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "run" and isinstance(value, ModuleType):
            value = value.run
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
