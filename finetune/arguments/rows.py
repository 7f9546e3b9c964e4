"""Options of the commands that make recipes, templates and rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.arguments.options import json_argument, kind_of, positive
from finetune.shipped import recipe_file


def new_arguments(command: argparse.ArgumentParser) -> None:
    kinds = command.add_subparsers(dest="what", required=True)
    template = kind_of(kinds, "new template", "a data template")
    pack = kind_of(kinds, "new pack", "template, sample, recipes and page of an industry's task")
    for kind in (template, pack):
        kind.add_argument("sample", type=Path, help="a file of rows: .jsonl, .json, .csv, ...")
        kind.add_argument("--answer", metavar="COLUMN", help="the column to be answered (default: the last)")
        json_argument(kind)
    template.add_argument("--output", type=Path, required=True, help="the template's YAML file")
    pack.add_argument("--industry", required=True, metavar="NAME", help="the folder of the pack, as shipping")
    pack.add_argument("--task", required=True, metavar="NAME", help="the task's file name and run, as port_delay")
    pack.add_argument("--group", metavar="COLUMN", help="its rows stay on one side of the split (default: guessed)")
    pack.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="where to write (default: here)")
    recipe = kind_of(kinds, "new recipe", "a recipe of your own, begun as a shipped one")
    recipe.add_argument("name", nargs="?", help="a shipped recipe, as meteorology/metar_decode (default: list them)")
    recipe.add_argument("--output", type=Path, metavar="FILE", help="(default: here, under the recipe's own name)")
    recipe.add_argument("--copy", action="store_true", help="all of its keys (default: it extends the shipped one)")
    json_argument(recipe)


def import_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, help="their YAML or JSON; of TRL also a text file with a command line")
    command.add_argument(
        "--from",
        dest="source",
        choices=["llamafactory", "axolotl", "trl"],
        help="whose it is (default: told by its keys)",
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="the recipe (default: NAME.recipe.yaml beside it)")
    command.add_argument(
        "--processes",
        type=positive,
        help="devices that share a batch there (default: as a launcher in it says, else 1)",
    )
    command.add_argument(
        "--stage",
        choices=["sft", "dpo", "kto", "reward", "orpo", "cpo"],
        help="of TRL: the command that a config is for",
    )
    command.add_argument("--overwrite", action="store_true", help="write over files that are there")
    json_argument(command)


def raft_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("questions", type=Path, help="rows of question, answer and gold (ids of passages)")
    command.add_argument("passages", type=Path, help="rows of id and text")
    command.add_argument("--distractors", type=positive, default=3, help="other passages beside the gold (default 3)")
    command.add_argument(
        "--without-gold", type=float, default=0.2, metavar="SHARE", help="of the rows, lose their gold (default 0.2)"
    )
    command.add_argument(
        "--then", choices=["refuse", "memory"], default="refuse", help="what is right without gold (default refuse)"
    )
    command.add_argument("--folds", type=positive, default=10, help="parts that share no passage (default 10)")
    command.add_argument("--seed", type=int, default=0, help="(default 0)")
    command.add_argument("--output", type=Path, required=True, help="the rows, as JSON Lines")
    json_argument(command)


def feedback_arguments(command: argparse.ArgumentParser) -> None:
    kinds = command.add_subparsers(dest="what", required=True)
    logs = kind_of(kinds, "feedback import", "rows to train on, out of logs with ratings and corrections")
    logs.add_argument("logs", nargs="+", metavar="LOG", help="files of JSON Lines (also .gz, .zst), folders, globs")
    logs.add_argument("--output", type=Path, required=True, help="a new folder")
    logs.add_argument("--recipe", type=recipe_file, help="a recipe whose held-out prompts must not be trained on")
    logs.add_argument(
        "--known", type=Path, action="append", default=[], metavar="FOLDER",
        help="an earlier import, or a folder of them: what it has is left out",
    )  # fmt: skip
    logs.add_argument(
        "--good", default="", metavar="LIST", help="ratings that are good, as 4,5 (default: by the scale)"
    )
    logs.add_argument("--bad", default="", metavar="LIST", help="ratings that are bad, as 1,2 (default: by the scale)")
    for name, default in (("personal-data", "redact"), ("secrets", "drop")):
        logs.add_argument(
            f"--{name}", choices=["redact", "drop", "error", "off"], default=default, help=f"(default {default})"
        )
    logs.add_argument(
        "--near-duplicates", type=float, metavar="INDEX", help="leave out rows as near as this, as 0.8 (default: off)"
    )
    logs.add_argument(
        "--least-correction", type=float, default=0.1, metavar="SHARE",
        help="shortest correction, as a share of the answer's characters (default 0.1)",
    )  # fmt: skip
    logs.add_argument(
        "--broken", choices=["error", "drop"], default="error", help="lines that are no log lines (default error)"
    )
    json_argument(logs)
