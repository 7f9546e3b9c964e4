"""What a run says: console lines, how far it is, metrics.jsonl, trackers. Main process only."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from finetune.progress import track

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
        plain = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        with self.file.open("a", encoding="utf-8") as file:  # JSON has no NaN: it stands there as text
            file.write(json.dumps({"step": step} | plain) + "\n")
        self._accelerator.log(values, step=step)

    def rewind(self, step: int, evaluated: int) -> None:
        """Leaves out of metrics.jsonl what came after a checkpoint: steps after `step`, looks after `evaluated`."""
        if not (self._main and self.file.is_file()):
            return
        kept = []
        for line in self.file.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                values = json.loads(line)
            except ValueError:  # the last line of a killed run
                continue
            if values["step"] <= (evaluated if "eval_loss" in values else step):
                kept.append(line)
        draft = self.file.with_name(".metrics.jsonl")
        draft.write_text("".join(kept), encoding="utf-8")
        draft.replace(self.file)

    def track(self, items: Iterable[Item], total: int, what: str, done: int = 0, lines: bool = True) -> Iterator[Item]:
        """The items, with how far they are as progress.track shows it."""
        if self._main:
            yield from track(items, what, total, done, lines=lines)
        else:
            yield from items
