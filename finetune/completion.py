"""`finetune completion SHELL`: the script by which a shell completes commands, options, choices, files and keys."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import RecipeError
from finetune.schema.lookup import all_keys
from finetune.schema.recipe import recipe_schema
from finetune.shipped import recipe_file

FOLDERS = ("FOLDER", "BUNDLE", "URL|DIR", "RUN|ADAPTER")


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script, which asks nothing of finetune when it completes.

    Raises:
        RecipeError: the package that writes it is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise RecipeError("the package shtab is not installed; pip install shtab") from None
    keys = sorted(all_keys(recipe_schema()))
    for action in _actions(parser):
        if action.metavar == "KEY":
            action.choices = keys
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.type in (Path, recipe_file) or action.metavar in ("FILE", "LOG"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    script: str = shtab.complete(parser, shell=shell)
    return script


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument of the commands, those of their kinds too."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
