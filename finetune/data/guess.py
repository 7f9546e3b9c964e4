"""A column's type and rules, guessed from its values."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

MAX_CHOICES = 12  # distinct values of a column of choices
_INT = re.compile(r"\s*[-+]?(0|[1-9]\d*)\s*")  # 007 is a code, not a number
_FLOAT = re.compile(r"\s*[-+]?(0|[1-9]\d*)?(\.\d+)?([eE][-+]?\d+)?\s*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def guess(values: Sequence[Any]) -> dict[str, Any] | None:
    """A column's type and rules from its values; None when they are of several types.

    Ranges are not guessed: the next file may go beyond them.
    """
    given = [value for value in values if value is not None]
    column = _type_of(given)
    if column is not None and len(given) < len(values):
        column["nullable"] = True
    return column


def _type_of(given: list[Any]) -> dict[str, Any] | None:
    if not given:
        return {"type": "str"}
    if all(isinstance(value, str) for value in given):
        return _text_type(given)
    if all(isinstance(value, bool) for value in given):
        return {"type": "bool"}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return {"type": "int" if all(isinstance(value, int) for value in given) else "float"}
    if all(isinstance(value, list) for value in given):
        return _list_type(given)
    if all(isinstance(value, dict) for value in given):
        keys = list(dict.fromkeys(key for value in given for key in value))
        columns = {key: inner for key in keys if (inner := guess([value.get(key) for value in given]))}
        return {"type": "object"} | ({"columns": columns} if columns and len(columns) == len(keys) else {})
    return None


def _text_type(given: list[str]) -> dict[str, Any]:
    """Text may be anything written down: CSV has nothing else."""
    if all(value.strip().lower() in ("true", "false") for value in given):
        return {"type": "bool"}
    if all(_INT.fullmatch(value) for value in given):
        return {"type": "int"}
    if all(_FLOAT.fullmatch(value) and value.strip(" +-") for value in given):
        return {"type": "float"}
    if all(_DATE.fullmatch(value) and _reads(dt.date, value) for value in given):
        return {"type": "date"}
    if all(_DATE.match(value) and _reads(dt.datetime, value) for value in given):
        return {"type": "datetime"}
    distinct = Counter(given)
    few = len(distinct) <= MAX_CHOICES and len(given) >= max(8, 4 * len(distinct)) and min(distinct.values()) > 1
    if few and max(map(len, distinct)) <= 40 and all(distinct):
        return {"type": "str", "choices": sorted(distinct)}
    return {"type": "str"}


def _reads(kind: type[dt.date], value: str) -> bool:
    try:
        kind.fromisoformat(value)
    except ValueError:
        return False
    return True


def _list_type(given: list[list[Any]]) -> dict[str, Any]:
    items = [item for value in given for item in value]
    flat = [cell for item in items if isinstance(item, dict | list) for cell in _cells(item)]
    rectangular = all(len({len(row) if isinstance(row, list) else -1 for row in value}) <= 1 for value in given)
    if items and all(isinstance(item, dict) for item in items) and rectangular and _scalars(flat):
        return {"type": "table"}
    headed = all(isinstance(row, list) and all(isinstance(cell, str) for cell in row) for v in given for row in v[:1])
    if items and all(isinstance(item, list) and item for item in items) and headed and rectangular and _scalars(flat):
        return {"type": "table"}
    inner = _type_of(items) if items and None not in items else None
    plain = inner is not None and inner["type"] in ("str", "int", "float", "bool", "date", "datetime")
    return {"type": "list", "items": inner["type"]} if plain and inner else {"type": "list"}


def _cells(row: Any) -> list[Any]:
    return list(row.values()) if isinstance(row, dict) else row


def _scalars(cells: list[Any]) -> bool:
    return not any(isinstance(cell, list | dict) for cell in cells)
