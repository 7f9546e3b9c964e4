"""Log files to lines: JSON Lines as the standard has them, every line with the place it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.compressed import open_bytes
from finetune.data.encoding import lines
from finetune.data.filehash import file_sha256
from finetune.data.findings import DataFile, Findings
from finetune.data.rows import Row
from finetune.data.source import source_files
from finetune.data.strictjson import MalformedError, strict_json
from finetune.errors import DataError
from finetune.recipe_data import SourceSection

LONGEST = 10_000_000  # characters of a line; a conversation of that length is no conversation


@dataclass(frozen=True)
class LeftOut:
    """A row that gives nothing, and why.

    Attributes:
        where: `file:line`.
        reason: a word out of `reasons.REASONS`.
        detail: what it was in this row; of its text at most the forty characters that were wrong.
        choice: which of several answers on the line.
    """

    where: str
    reason: str
    detail: str = ""
    choice: int = 0


@dataclass(frozen=True)
class LogFile:
    """A file that was read; `sha256` is of its bytes as they lie there, packed or not."""

    name: str
    sha256: str
    lines: int


@dataclass(frozen=True)
class Log:
    """All that the files hold. `broken` are lines that hold no JSON object, with what is wrong as `file:line:column: what`."""

    files: tuple[LogFile, ...]
    rows: list[Row]
    broken: list[LeftOut]


def read_logs(names: Sequence[str]) -> Log:
    """The lines of these files, folders and globs, in that order; a file named twice is read once.

    Raises:
        DataError: a name that matches nothing, a file that can't be read, is binary or holds no line.
    """
    problems: list[str] = []
    found: dict[Path, DataFile] = {}
    for name in names:
        try:
            for file in source_files(SourceSection(path=name), Findings()):  # type: ignore[call-arg]
                found.setdefault(file.path.resolve(), file)
        except DataError as error:
            problems += error.problems
    files, rows, broken = [], [], []
    for file in found.values():
        try:
            its_rows, its_broken = _read(file)
        except OSError as error:
            problems.append(f"{file.label}: can't be read: {error.strerror or error}")
            continue
        except DataError as error:
            problems += error.problems
            continue
        files.append(LogFile(file.label, file_sha256(file.path), len(its_rows) + len(its_broken)))
        rows += its_rows
        broken += its_broken
    if problems:
        raise DataError(problems)
    return Log(tuple(files), rows, broken)


def _read(file: DataFile) -> tuple[list[Row], list[LeftOut]]:
    with open_bytes(file.path) as stream:
        if b"\0" in stream.read(4096):
            raise DataError(f"{file.label}: holds binary data, not JSON Lines in UTF-8")
    rows: list[Row] = []
    broken: list[LeftOut] = []
    for found in _lines(file):
        if isinstance(found, Row):
            rows.append(found)
        else:
            broken.append(found)
    if not rows and not broken:
        raise DataError(f"{file.label}: holds no rows")
    return rows, broken


class _Last(Findings):
    """Remembers the newest problem."""

    last = ""

    def problem(self, text: str) -> None:
        self.last = text
        super().problem(text)


def _lines(file: DataFile) -> Iterator[Row | LeftOut]:
    """A row, or what is wrong, for each line that is not blank."""
    findings = _Last()
    for number, line in lines(file, "utf-8", findings):
        where = f"{file.label}:{number}"
        text = None if line is None else line.rstrip("\r\n")
        if text is None:
            yield LeftOut(where, "malformed", findings.last)
        elif len(text) > LONGEST:
            yield LeftOut(
                where, "malformed", f"{where}: a line of {len(text):,} characters; at most {LONGEST:,} are read"
            )
        elif text.strip():
            yield _row(text, file.label, number)


def _row(text: str, label: str, number: int) -> Row | LeftOut:
    where = f"{label}:{number}"
    if text.startswith(("data:", "event:")):
        return LeftOut(where, "malformed", f"{where}: {STREAM}")
    try:
        values = strict_json(text)
    except MalformedError as error:
        at = f"{where}:{error.column}" if error.column else where
        return LeftOut(where, "malformed", f"{at}: {error}")
    if not isinstance(values, dict):
        return LeftOut(where, "malformed", f"{where}: an object is needed, got {type(values).__name__}")
    return Row(values, label, number)


STREAM = "a piece of a streamed response (chat.completion.chunk); log the whole response, put together, in one line"
