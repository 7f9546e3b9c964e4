"""Options of the commands that run a recipe, and of those that tell of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.arguments.options import json_argument, overrides, positive, recipe_arguments
from finetune.shipped import recipe_file


def smoke_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument(
        "--output", type=Path, help="an empty folder to work in, which is kept (default: a temporary one)"
    )
    json_argument(command)
    command.add_argument("--keep", action="store_true", help="keep the temporary folder (a failure always does)")


def parity_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument(
        "--devices", metavar="cpu,npu", help="the reference first (default: cpu, and every other device that is here)"
    )
    command.add_argument("--steps", type=positive, default=8, help="optimizer steps (default 8)")
    command.add_argument("--dtype", choices=["float32", "bfloat16"], help="to compute in (default: the recipe's)")
    command.add_argument(
        "--tiny", action="store_true", help="on a tiny random model of the base's architecture, as smoke does"
    )
    command.add_argument("--output", type=Path, help="folder (default: <output_dir>.parity)")
    json_argument(command)


def train_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    earlier = command.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="replace an earlier run in output_dir")
    earlier.add_argument(
        "--resume", metavar="auto|FOLDER", help="go on from the newest valid checkpoint, or from this one"
    )
    json_argument(command)


def evaluate_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument("--adapter", type=Path, metavar="FOLDER", help="(default: the one of the recipe's run)")
    command.add_argument("--output", type=Path, help="folder (default: <output_dir>.evaluation)")
    command.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation")
    json_argument(command)


def gate_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument(
        "--scores", type=Path, metavar="FOLDER", help="of a run or an evaluation (default: the recipe's output_dir)"
    )
    json_argument(command)


def iterate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe", type=recipe_file, help="the recipe that the first release was, or is to be, trained by"
    )
    command.add_argument("logs", nargs="*", metavar="LOG", help="as `finetune feedback import` reads; none: end a turn")
    command.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="where data, recipes and runs lie")
    command.add_argument(
        "--release", type=Path, metavar="BUNDLE", help="what is served now (default: the recipe's own)"
    )
    command.add_argument(
        "--max-drop", type=float, default=0.02, metavar="X",
        help="how far the first score may fall below the release's (default 0.02), where the recipe's gate says nothing",
    )  # fmt: skip
    command.add_argument("--repeat", type=positive, default=1, help="how many times each new row is used (default 1)")
    command.add_argument("--prepare", action="store_true", help="write data and recipe, and train later")
    json_argument(command)


def reproduce_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, help="a bundle's folder")
    command.add_argument("--output", type=Path, help="folder of the new run (default: <bundle>.reproduced)")
    json_argument(command)
    overrides(command)


def chat_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("place", type=Path, metavar="RUN|BUNDLE", help="a run's folder, or a bundle's")
    command.add_argument(
        "--ask", action="append", default=[], metavar="TEXT", help="this message and no terminal; again: the next one"
    )
    command.add_argument(
        "--sample", action="append", default=[], type=positive, metavar="N", help="the N-th held-out prompt, likewise"
    )
    command.add_argument("--system", metavar="TEXT", help="the system message (default: that of the training)")
    command.add_argument("--max-new-tokens", type=positive, metavar="N", help="(default: as in the evaluation)")
    command.add_argument("--alone", action="store_true", help="the tuned model only; its base is not loaded")
    command.add_argument(
        "--trust-remote-code", action="store_true", help="run the folder's own *.py, where its model needs them"
    )
    json_argument(command)


def report_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run", type=Path, metavar="RUN_FOLDER", help="a run's folder; an evaluation's or a bundle's too"
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="(default: report.html in the folder)")
    json_argument(command)


def runs_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "what",
        nargs="*",
        metavar="[FOLDER | compare A B]",
        help="where to look for runs (default: runs); two to compare",
    )
    json_argument(command)
    command.add_argument("--html", type=Path, metavar="FILE", help="write one page that compares the runs")
