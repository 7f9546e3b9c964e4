"""Options of the commands that look at a recipe, or at this machine, and train nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.arguments.options import json_argument, overrides, positive, recipe_arguments
from finetune.plan.hardware import names as hardware_names
from finetune.shipped import recipe_file


def check_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    json_argument(command)


def explain_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=recipe_file, help="the recipe's YAML file, or pack:NAME of a shipped one")
    command.add_argument(
        "key",
        nargs="?",
        metavar="KEY",
        help="right after the recipe: as train.learning_rate; of a section all its keys (default: the whole recipe)",
    )
    overrides(command)
    json_argument(command)


def schema_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--template", action="store_true", help="of a data template, not of a recipe")
    command.add_argument("--output", type=Path, metavar="FILE", help="write it here (default: print it)")


def show_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument("--rows", type=positive, default=3, help="how many samples (default 3)")


def audit_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument("--output", type=Path, help="folder (default: <output_dir>.audit)")
    json_argument(command)


def plan_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument(
        "--hardware", choices=hardware_names(), metavar="NAME",
        help=f"what it is to run on: {', '.join(hardware_names())} (default: the device at hand)",
    )  # fmt: skip
    command.add_argument("--processes", type=positive, default=1, help="devices that share the batch (default 1)")
    command.add_argument(
        "--engine", choices=["ddp", "fsdp2", "zero2", "zero3"], help="how they share the model (default: ddp)"
    )
    command.add_argument("--price-per-hour", type=float, metavar="PRICE", help="of one device, in any currency")
    json_argument(command)


def doctor_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe", type=recipe_file, nargs="?", metavar="RECIPE", help="also say whether it can run on this machine"
    )
    overrides(command)
    json_argument(command)


def carry_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipes", type=recipe_file, nargs="+", metavar="RECIPE", help="recipes that are to run over there"
    )
    command.add_argument("--output", type=Path, metavar="FOLDER", help="copy it all into a new folder, wheels too")
    command.add_argument(
        "--no-wheels", dest="wheels", action="store_false", help="with --output: do not ask pip for the wheels"
    )
    command.add_argument(
        "--extras", default="", metavar="LIST", help="of finetune, beside those that the recipes use, as units,chinese"
    )
    json_argument(command)


def completion_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=["bash", "zsh", "fish", "tcsh", "powershell"])
