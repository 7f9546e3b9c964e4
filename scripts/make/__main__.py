"""Write a task's sample rows, or turn real data in its published form into rows of the task's template.

    python -m scripts.make finance/identifiers                    # data_templates/finance/identifiers.sample.jsonl
    python -m scripts.make finance/identifiers --rows 50 --seed 1 --output rows.jsonl
    python -m scripts.make meteorology/warning_facts --from products/ --output rows.jsonl

A task's module, `scripts/make/<industry>/<task>.py`, has ROWS, SEED and `make(rows, seed)`, which gives the same rows each
time, or `read(path)`, which gives rows of real data, or both, of one form.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).parent


def sample_of(task: str) -> Path:
    """The sample file of `<industry>/<task>`."""
    return ROOT / f"data_templates/{task}.sample.jsonl"


def tasks() -> list[str]:
    """Every `<industry>/<task>` that has a module here."""
    return sorted(
        str(file.relative_to(HERE).with_suffix(""))
        for file in HERE.glob("*/*.py")
        if re.search(r"^def (make|read)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    )


def load(task: str) -> Any:
    """The module of a task."""
    return importlib.import_module(f"scripts.make.{task.replace('/', '.')}")


def text_of(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as JSON Lines, as the samples are written."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.make", description="Sample rows of a task.")
    parser.add_argument("task", choices=tasks(), metavar="industry/task", help=", ".join(tasks()))
    parser.add_argument("--rows", type=int, help="how many, the shipped sample's number where left out")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--from", dest="source", type=Path, help="real data in its published form")
    parser.add_argument("--output", type=Path, help="the shipped sample where left out")
    options = parser.parse_args()
    if options.rows is not None and options.rows < 1:
        parser.error(f"--rows: {options.rows}: at least one row is needed")
    module = load(options.task)
    if options.source is None:
        if not hasattr(module, "make"):
            parser.error(f"{options.task} makes no rows; give it real data with --from")
        rows = module.make(
            module.ROWS if options.rows is None else options.rows, module.SEED if options.seed is None else options.seed
        )
    else:
        if not hasattr(module, "read"):
            parser.error(f"{options.task} reads no real data")
        if options.output is None:
            parser.error("--from needs --output: real data is not written over the shipped sample")
        if not options.source.exists():
            parser.error(f"--from: {options.source}: no such file or folder")
        rows = list(module.read(options.source))
    output = options.output or sample_of(options.task)
    output.write_text(text_of(rows), encoding="utf-8")
    sys.stdout.write(f"{output}: {len(rows)} rows\n")


if __name__ == "__main__":
    main()
