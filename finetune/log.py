"""What a run says: console lines, a progress bar with the time left, metrics.jsonl, trackers. Main process only."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from accelerate import Accelerator

Item = TypeVar("Item")


class Log:
    """Console and files of one run.

    Args:
        folder: where metrics.jsonl goes; it must exist.
        accelerator: says which process is the main one, and holds the trackers.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.file = folder / "metrics.jsonl"
        self._accelerator = accelerator
        self._main = accelerator.is_main_process
        self._console = Console(soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """One line on the console."""
        if self._main:
            self._console.print(text, markup=False)
            sys.stdout.flush()

    def metrics(self, step: int, values: dict[str, float], line: str) -> None:
        """`line` on the console, the values as one line of metrics.jsonl, and to the trackers."""
        if not self._main:
            return
        self.say(line)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | values) + "\n")
        self._accelerator.log(values, step=step)

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        """The items, with a progress bar where someone watches (a terminal); silent in a file or pipe."""
        if not (self._main and self._console.is_terminal):
            yield from items
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._console, transient=True) as bar:
            yield from bar.track(items, total=total, description=what)
