"""`finetune report` and `finetune runs`: pages and tables of what lies in runs' folders."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError, first_line
from finetune.report.compare import facts_of, notes_of, recipe_differences, scores_of
from finetune.report.found import HEADS, as_json, find_runs, summary_of
from finetune.report.read import Run, read_run
from finetune.report.words import ends, number
from finetune.told import tell

COMPARE = "compare"
RUNS = Path("runs")  # where recipes put theirs


def report_command(options: argparse.Namespace) -> list[str]:
    """Writes the page; its place to print.

    Raises:
        RecipeError: no run there, files in it that are not this tool's, a page that can't be written.
    """
    from finetune.report.page import write_report

    run = read_run(options.run)
    if options.output is None and run.bundle == run.folder:
        raise RecipeError(
            f"{run.folder}: a bundle without its run; its files are listed in MANIFEST.json: give --output FILE"
        )
    if options.output is not None and options.output.is_dir():
        raise RecipeError(f"--output: {options.output} is a folder; name a file, as {options.output / 'report.html'}")
    try:
        return [str(write_report(options.run, options.output))]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"{run.folder}: its files are not as this version writes them: {first_line(error)}") from None


def runs_command(options: argparse.Namespace) -> None:
    """Prints the list, or the comparison of two.

    Raises:
        RecipeError: no run there, a comparison of other than two, a file that can't be written.
    """
    words: list[str] = options.what
    if words[:1] == [COMPARE]:
        if len(words) != 3:
            raise RecipeError(
                f"runs compare: two runs' folders are needed, got {len(words) - 1}: finetune runs compare A B"
            )
        runs = [read_run(Path(word)) for word in words[1:]]
        folder = Path(os.path.commonpath([run.folder.absolute() for run in runs]))
        told: Any = comparison(runs)
    elif len(words) > 1:
        raise RecipeError(
            f"runs: one folder is needed, got {len(words)}; two runs are compared by: finetune runs compare A B"
        )
    else:
        folder = Path(words[0]) if words else RUNS
        runs = find_runs(folder)
        told = {"runs": [as_json(summary_of(run, folder), run) for run in runs]}
    if options.html:
        from finetune.report.runs_page import write_runs_page

        write_runs_page(runs, [summary_of(run, folder) for run in runs], options.html)
    tell(options.json, told)
    if words[:1] == [COMPARE]:
        _show_comparison(told)
    else:
        show(HEADS, [summary_of(run, folder).cells() for run in runs])
    if options.html:
        print(options.html)


def comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """Two runs against each other, as plain values."""
    a, b = runs
    return {
        "a": str(a.folder),
        "b": str(b.folder),
        "notes": [note.en for note in notes_of(runs)],
        "recipe": [{"key": one.key, "a": one.values[0], "b": one.values[1]} for one in recipe_differences(runs)],
        "facts": [{"fact": one.name.en, "a": one.values[0].en, "b": one.values[1].en} for one in facts_of(runs)],
        "scores": [
            {
                "score": one.name, "a": one.values[0], "a_interval": one.ends[0], "b": one.values[1],
                "b_interval": one.ends[1], "difference": one.moved, "intervals_apart": one.apart,
            }
            for one in scores_of(runs)
        ],
    }  # fmt: skip


def _show_comparison(told: dict[str, Any]) -> None:
    print(f"a: {told['a']}\nb: {told['b']}\n")
    for note in told["notes"]:
        print(f"note: {note}")
    if told["recipe"]:
        show(["recipe", "a", "b"], [[one["key"], one["a"], one["b"]] for one in told["recipe"]])
    else:
        print("recipe: no difference")
    print()
    show(["", "a", "b"], [[one["fact"], one["a"], one["b"]] for one in told["facts"]])
    print()
    if not told["scores"]:
        print("scores: none of the two was evaluated")
        return
    apart = {None: "", True: "intervals apart", False: "intervals overlap"}
    show(
        ["score of the tuned model", "a", "b", "b − a", ""],
        [
            [
                one["score"],
                f"{number(one['a'])} {ends(one['a_interval'])}".strip(),
                f"{number(one['b'])} {ends(one['b_interval'])}".strip(),
                number(one["difference"], signed=True),
                apart[one["intervals_apart"]],
            ]
            for one in told["scores"]
        ],
    )


def show(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: drawn where somebody watches; elsewhere a line a row, its columns aligned, for grep."""
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD)
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console(highlight=False).print(table)
        return
    widths = [max(len(line[column]) for line in (heads, *rows)) for column in range(len(heads))]
    for line in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
