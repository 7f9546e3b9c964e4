"""Answers side by side as they grow, where somebody watches; one after the other in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from finetune.verify.wire import Reply


@dataclass
class Shown:
    """One question's answers: a column each."""

    live: Live | None
    columns: dict[str, str]
    limit: int
    below: dict[str, str] = field(default_factory=dict)

    def hear(self, who: str) -> Callable[[str], None]:
        """What a model is given to tell its answer so far to."""

        def told(text: str) -> None:
            self.columns[who] = text
            if self.live:
                self.live.update(self.table())

        return told

    def end(self, replies: Mapping[str, Reply], more: Mapping[str, str] | None = None) -> None:
        """The answers as they are at last, and columns beside them."""
        for who, reply in replies.items():
            self.columns[who] = reply.text or "(nothing)"
            self.below[who] = f"{reply.tokens} tokens, {reply.seconds:.1f} s" + (
                "" if reply.reason == "stop" else f"; cut at {self.limit}"
            )
        self.columns |= more or {}
        if self.live:
            self.live.update(self.table())

    def table(self) -> Table:
        made = Table(expand=True, show_lines=False)
        for who in self.columns:
            made.add_column(who, footer=self.below.get(who, ""), ratio=1, overflow="fold")
        made.show_footer = bool(self.below)
        made.add_row(*(Text(text) for text in self.columns.values()))
        return made

    def lines(self) -> Iterator[str]:
        for who, text in self.columns.items():
            told = f" ({self.below[who]})" if who in self.below else ""
            yield f"{who}{told}:"
            yield from (f"  {line}" for line in text.splitlines())


class Screen:
    """stdout: a terminal, or not."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def answers(self, who: Sequence[str], limit: int) -> Iterator[Shown]:
        """A place where the answers of these models appear."""
        empty = dict.fromkeys(who, "")
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=8, vertical_overflow="visible") as live:
                yield Shown(live, empty, limit)
            return
        shown = Shown(None, empty, limit)
        yield shown
        for line in shown.lines():
            self.say(line)
