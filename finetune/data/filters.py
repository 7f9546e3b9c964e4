"""Jinja filters of data templates: numbers, nulls, tables and JSON as text, and bounded forms of Jinja's own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from finetune.data.limits import MAX_COUNT, LimitError, allow, size_of
from finetune.errors import did_you_mean

_WIDE = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(?:\*|\d{4,}|\d*\.(?:\*|\d{4,}))")


def number(value: float | None, null: str = "none") -> str:
    """12.0 as `12`, 6.21 as `6.21`, 1e-9 as `0.000000001`: every digit, no exponent; null as `none`."""
    if value is None:
        return null
    if not isinstance(value, float):
        return str(value)
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def decimals(value: float | None, places: int, null: str = "none") -> str:
    """A fixed number of decimal places."""
    return null if value is None else f"{value:.{places}f}"


def or_null(value: Any, null: str = "none") -> str:
    """Text as it is, null and the empty list as `none`; a list is joined with commas."""
    if value is None or value == []:
        return null
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def tojson(value: Any, indent: int | None = None) -> str:
    """JSON (`null` for a null) with letters as they are (not escaped for HTML as Jinja's own filter does); dates in ISO form."""
    return json.dumps(value, ensure_ascii=False, indent=indent, default=_iso)


def _iso(value: Any) -> str:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{value!r} can't be written as JSON")


def table(value: Any, style: str = "markdown", null: str = "") -> str:
    """A table, or one object, as a Markdown table (`markdown`) or as `column: value` lines, a blank line between
    rows (`lines`). Null and the empty list as `none`.

    Args:
        value: a list of objects, a list of lists whose first is the header, or one object.
        null: what an empty cell shows.

    Raises:
        ValueError: the value is none of these, or no such style.
    """
    if style not in ("markdown", "lines"):
        raise ValueError(f"table: {style!r} is not a style{did_you_mean(style, ('markdown', 'lines'))}")
    if value is None or value == []:
        return "none"
    header, rows = _header_and_rows(value)
    cells = [[_cell(cell, null) for cell in row] for row in rows]
    if style == "lines":
        blocks = [
            "\n".join(f"{name}: {cell}".rstrip() for name, cell in zip(header, row, strict=True)) for row in cells
        ]
        return "\n\n".join(blocks)
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def _header_and_rows(value: Any) -> tuple[list[str], list[list[Any]]]:
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        names = list(dict.fromkeys(name for row in value for name in row))
        return [_cell(name, "") for name in names], [[row.get(name) for name in names] for row in value]
    if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        if len({len(row) for row in value}) == 1:
            return [_cell(name, "") for name in value[0]], value[1:]
        raise ValueError("table: the rows are not equally long")
    raise ValueError("table: a list of objects, a list of lists or one object is needed")


def _cell(value: Any, null: str) -> str:
    """One line of text; numbers as the `number` filter writes them."""
    if value is None:
        return null
    return " ".join((number(value) if isinstance(value, float) else str(value)).split())


def numbers(*args: int) -> range:
    """`range()`, of at most MAX_COUNT numbers."""
    result = range(*args)
    if len(result) > MAX_COUNT:
        raise LimitError(f"range() of more than {MAX_COUNT:,} numbers")
    return result


def join(value: Any, d: str = "", attribute: str | int | None = None) -> str:
    """The items' text with `d` between them."""
    items = [str(item if attribute is None else item[attribute]) for item in value]
    allow(sum(map(len, items)) + len(d) * len(items))
    return d.join(items)


def replace(text: str, old: str, new: str, count: int = -1) -> str:
    """As `str.replace`."""
    allow(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


def indent(text: str, width: int | str = 4, first: bool = False) -> str:
    """Spaces (or the text `width`) before every line that is not empty; before the first only when `first`."""
    pad = " " * width if isinstance(width, int) else width
    allow(len(text) + (text.count("\n") + 1) * len(pad))
    head, *rest = text.split("\n")
    return "\n".join([pad + head if first else head, *(pad + line if line else line for line in rest)])


def printf(text: str, *args: Any, **kwargs: Any) -> str:
    """The filter `format`: `"%.2f %s" | format(a, b)`."""
    return percent(text, kwargs or args)


def percent(text: str, values: Any) -> str:
    """`text % values`, with widths of at most three digits."""
    if len(text) > MAX_COUNT or _WIDE.search(text):
        raise LimitError("a format may not be this long, or hold a width of more than three digits")
    allow(len(text) + text.count("%") * size_of(values))
    return text % values


def total(values: Any, attribute: str | int | None = None, start: float = 0) -> float:
    """The filter `sum`, of numbers only."""
    result = start
    for item in values:
        value = item if attribute is None else item[attribute]
        if not isinstance(value, int | float):
            raise TypeError(f"sum: a number is needed, got {value!r}")
        result = result + value
    return result


FILTERS: dict[str, Callable[..., Any]] = {
    "decimals": decimals, "format": printf, "indent": indent, "join": join, "number": number, "or_null": or_null,
    "replace": replace, "sum": total, "table": table, "tojson": tojson,
}  # fmt: skip
