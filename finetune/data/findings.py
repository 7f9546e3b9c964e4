"""What the readers found: problems, which stop the run together, and notes, which are said aloud."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.errors import DataError

PRINTED = 50  # problems kept word for word; the others are counted


@dataclass(frozen=True)
class DataFile:
    """One file of a source.

    Attributes:
        path: where it lies on this machine.
        label: how messages and rows name it; for a hub dataset `owner/name@commit/path`.
        name: its path below the source's folder or glob; the `name` of a text row.
    """

    path: Path
    label: str
    name: str


class Findings:
    """Problems (all counted, the first 50 kept), notes (each once, in order) and how many blank lines were skipped."""

    def __init__(self) -> None:
        self.count = 0
        self.blank = 0
        self.notes: list[str] = []
        self._problems: list[str] = []

    def problem(self, text: str) -> None:
        self.count += 1
        if len(self._problems) < PRINTED:
            self._problems.append(text)

    def problems(self, error: DataError) -> None:
        for text in error.problems:
            self.problem(text)

    def merge(self, other: Findings) -> None:
        """Adds what another one holds."""
        left = other.count - len(other._problems)
        for text in other._problems:
            self.problem(text)
        self.count += left
        self.blank += other.blank
        for text in other.notes:
            self.note(text)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def lines(self) -> list[str]:
        """Every problem noted so far; beyond 50 their number."""
        left = self.count - len(self._problems)
        return [*self._problems, f"... and {left:,} more problems"] if left else list(self._problems)

    def stop_if_any(self) -> None:
        """Raises DataError with `lines` where there are problems."""
        if self.count:
            raise DataError(self.lines())
