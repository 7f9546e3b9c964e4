"""How far long work is, with the time left: a bar where somebody watches, a line now and then in a pipe or a job's log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TypeVar

from finetune.device.environment import local_rank

Item = TypeVar("Item")
EVERY = 30.0  # seconds between lines

_showing: ContextVar[bool] = ContextVar("showing", default=False)  # work inside other work is not told of


@contextmanager
def progress(what: str, total: int | None = None, done: int = 0, lines: bool = True) -> Iterator[Callable[[int], None]]:
    """Inside, what is yielded is called with how many more are done.

    One process a machine shows it, on stdout. Outside a terminal there is nothing for work that takes less than EVERY.

    Args:
        total: with the `done` ones; None: not known, and so neither is the time left.
        lines: False where the work itself says lines; outside a terminal there are then no others.
    """
    if _showing.get() or local_rank() > 0:
        yield lambda count: None
        return
    token = _showing.set(True)
    try:
        if sys.stdout.isatty():
            with _bar(what, total, done) as advance:
                yield advance
        else:
            yield _Lines(what, total, done).advance if lines else lambda count: None
    finally:
        _showing.reset(token)


@contextmanager
def _bar(what: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    from rich import progress as columns

    shown = (
        columns.TextColumn("{task.description}"), columns.BarColumn(), columns.MofNCompleteColumn(),
        columns.TimeElapsedColumn(), columns.TextColumn("left"), columns.TimeRemainingColumn(),
    )  # fmt: skip
    with columns.Progress(*shown, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def track(
    items: Iterable[Item],
    what: str,
    total: int | None = None,
    done: int = 0,
    size: Callable[[Item], int] = lambda item: 1,
    lines: bool = True,
) -> Iterator[Item]:
    """The items; as one is asked for, the one before is done. `size`: how many an item counts for; else as `progress`."""
    with progress(what, total, done, lines) as advance:
        for item in items:
            yield item
            advance(size(item))


class _Lines:
    """`answers: 80 of 200, 1:20 left`, at most every EVERY seconds."""

    def __init__(self, what: str, total: int | None, done: int) -> None:
        self._what, self._total = what, total
        self._begun, self._done = done, done
        self._started = self._said = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said < EVERY or self._done == self._total:
            return
        self._said = now
        of, left = "", ""
        if self._total:
            seconds = (now - self._started) / (self._done - self._begun) * (self._total - self._done)
            of, left = f" of {self._total:,}", f", {timedelta(seconds=round(seconds))} left"
        print(f"{self._what}: {self._done:,}{of}{left}", flush=True)
