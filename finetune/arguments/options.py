"""What options of several commands are made of."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.clihelp import Help, examples
from finetune.shipped import recipe_file
from finetune.told import STDOUT


def positive(text: str) -> int:
    """A whole number from 1 on, of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is needed, got {text!r}")
    return int(text)


def json_argument(command: argparse.ArgumentParser) -> None:
    """`--json`: alone on stdout, everything else on stderr; with a file beside what is printed."""
    command.add_argument(
        "--json", nargs="?", const=STDOUT, type=_not_a_recipe, metavar="FILE",
        help="the result as one JSON object: in FILE, or (no FILE, or -) on stdout with all else on stderr",
    )  # fmt: skip


def quiet_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quiet", action="store_true", help="print nothing but what is wrong")


def _not_a_recipe(text: str) -> str:
    """`--json RECIPE` would write over a recipe."""
    if Path(text).suffix in (".yaml", ".yml"):
        raise argparse.ArgumentTypeError(f"{text} would be written to; put --json after the recipe")
    return text


def kind_of(
    kinds: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str
) -> argparse.ArgumentParser:
    """What a command of several kinds takes after its name."""
    kind = kinds.add_parser(
        name.rpartition(" ")[2], help=what, description=f"{what[0].upper()}{what[1:]}.", allow_abbrev=False,
        formatter_class=Help, epilog=examples(name),
    )  # fmt: skip
    quiet_argument(kind)
    return kind


def recipe_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=recipe_file, help="the recipe's YAML file, or pack:NAME of a shipped one")
    overrides(command)


def overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as train.learning_rate=1e-4"
    )
