"""Files to rows. A row keeps the file and line it came from, so that every later complaint can name them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.data.rows import Row
from finetune.errors import DataError


def read_rows(files: Sequence[Path]) -> list[Row]:
    """All rows of JSON Lines (.jsonl), JSON arrays (.json) and CSV (.csv) files, in order.

    Raises:
        DataError: every malformed line as `file:line: reason`; also for a file without rows.
    """
    rows: list[Row] = []
    problems: list[str] = []
    for file in files:
        reader = READERS.get(file.suffix.lower())
        if reader is None:
            problems.append(
                f"{file}: can't read {file.suffix or 'a file without ending'}; allowed: {', '.join(READERS)}"
            )
            continue
        before = len(rows), len(problems)
        reader(file, _text(file), rows, problems)
        if (len(rows), len(problems)) == before:
            problems.append(f"{file}: holds no rows")
    if problems:
        raise DataError(problems)
    return rows


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{file}:{line}: not UTF-8 (byte 0x{error.object[error.start]:02x})") from None


def _read_jsonl(file: Path, text: str, rows: list[Row], problems: list[str]) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = _strict_json(line)
        except ValueError as error:
            problems.append(f"{file}:{number}: {error}")
            continue
        _add(values, file, number, rows, problems)


def _read_json(file: Path, text: str, rows: list[Row], problems: list[str]) -> None:
    try:
        values = _strict_json(text) if text.strip() else []
    except ValueError as error:
        problems.append(f"{file}: {error}")
        return
    if not isinstance(values, list):
        problems.append(f"{file}: a JSON array of objects is needed, got {type(values).__name__}")
        return
    for number, item in enumerate(values, start=1):
        _add(item, file, number, rows, problems)


def _read_csv(file: Path, text: str, rows: list[Row], problems: list[str]) -> None:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            problems.append(f"{file}:1: column given twice: {', '.join(twice)}")
            return
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                problems.append(f"{file}:{reader.line_num}: {len(cells)} cells, the header has {len(header)}")
                continue
            values = {column: cell if cell != "" else None for column, cell in zip(header, cells, strict=True)}
            rows.append(Row(values, str(file), reader.line_num))
    except csv.Error as error:
        problems.append(f"{file}:{reader.line_num}: {error}")


READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv}


def _add(values: Any, file: Path, number: int, rows: list[Row], problems: list[str]) -> None:
    if isinstance(values, dict):
        rows.append(Row(values, str(file), number))
    else:
        problems.append(f"{file}:{number}: an object is needed, got {type(values).__name__}")


def _strict_json(text: str) -> Any:
    """JSON as the standard has it: no NaN, no duplicate keys, nothing after the value, no lone surrogates."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"key given twice: {next(key for key in keys if keys.count(key) > 1)!r}")
        return result

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate (\\ud800 to \\udfff) is not text") from None
    return value
