"""Typed columns of a data template: what a cell may hold, and one cell's typed value."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from finetune.errors import did_you_mean

Scalar = Literal["str", "int", "float", "bool", "date", "datetime"]


class Part(BaseModel):
    """A piece of a template file: frozen, no key beyond the declared ones, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class DropRowError(ValueError):
    """This row is to be left out and counted: a null in a column with `null: drop`."""


def _item_column(value: Any) -> Any:
    """`items: int` is short for `items: {type: int}`."""
    return {"type": value} if isinstance(value, str) else value


class Column(Part):
    """What a column may hold.

    `unit` is for the reader; `minimum` and `maximum` are in that unit, both included. `null` says what happens to a
    row without a value: `error` (the default), `drop` (the row is left out and counted) or `keep` (`none` in Jinja);
    `nullable: true` is short for `null: keep`. `items` describes a list's items, `columns` an object's keys or a
    table's columns.
    """

    type: Literal["str", "int", "float", "bool", "date", "datetime", "list", "object", "table"]
    description: str | None = None
    unit: str | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: Annotated[tuple[Any, ...], Field(strict=False, min_length=1)] | None = None
    pattern: str | None = None
    items: Annotated[Column | None, BeforeValidator(_item_column)] = None
    columns: dict[str, Column] | None = None
    nullable: bool = False
    null: Literal["error", "drop", "keep"] | None = None

    @model_validator(mode="after")
    def rules_fit_the_type(self) -> Column:
        if self.items is not None and self.type != "list":
            raise ValueError(f"`items` is for type: list, this is {self.type}")
        if self.columns is not None and self.type not in ("object", "table"):
            raise ValueError(f"`columns` is for type: object and type: table, this is {self.type}")
        if self.nullable and self.null not in (None, "keep"):
            raise ValueError(f"`nullable: true` means `null: keep`; this says `null: {self.null}`")
        if self.type not in ("int", "float") and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"`minimum` and `maximum` are for int and float, this is {self.type}")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(f"`pattern` is not a regular expression: {error}") from None
        return self

    @property
    def on_null(self) -> Literal["error", "drop", "keep"]:
        return "keep" if self.nullable else self.null or "error"


def check_cell(value: Any, column: Column) -> Any:
    """The typed value of one cell; text from CSV is read as the column's type.

    Raises:
        ValueError: what is wrong with it and what is allowed.
        DropRowError: a null where the column (or one nested in it) says `null: drop`.
    """
    if value is None:
        return _null(column)
    typed: Any = _PARSERS[column.type](value, column)
    if column.choices is not None and typed not in column.choices:
        near = did_you_mean(str(typed), [str(choice) for choice in column.choices])
        raise ValueError(f"{value!r} is not one of the choices{near}")
    if column.pattern is not None and not re.fullmatch(column.pattern, str(typed)):
        raise ValueError(f"{value!r} does not match {column.pattern!r}")
    unit = f" {column.unit}" if column.unit else ""
    if column.minimum is not None and typed < column.minimum:
        raise ValueError(f"{value!r} is below the minimum of {column.minimum}{unit}")
    if column.maximum is not None and typed > column.maximum:
        raise ValueError(f"{value!r} is above the maximum of {column.maximum}{unit}")
    return typed


def check_cells(values: dict[str, Any], columns: dict[str, Column]) -> dict[str, Any]:
    """The declared columns of one row, typed; others are left out.

    Raises:
        ValueError: its arguments are every bad cell, each as `column: what`.
        DropRowError: nothing is wrong, but a null says that the row is to be left out.
    """
    record: dict[str, Any] = {}
    problems: list[str] = []
    dropped: list[str] = []
    for name, column in columns.items():
        try:
            if name not in values and column.on_null == "error":
                raise ValueError(f"is missing{did_you_mean(name, set(values) - set(columns), 'the row also has')}")
            record[name] = check_cell(values.get(name), column)
        except DropRowError as reason:
            dropped += [joined(name, str(part)) for part in reason.args]
        except ValueError as error:
            problems += [joined(name, str(part)) for part in error.args]
    if problems:
        raise ValueError(*problems)
    if dropped:
        raise DropRowError(*dropped)
    return record


def joined(name: str, problem: str) -> str:
    """A problem with the name of what it is inside: `table` and `[2].year: is null` give `table[2].year: is null`."""
    return f"{name}{problem}" if problem.startswith(("[", ".")) else f"{name}: {problem}"


def _null(column: Column) -> None:
    if column.on_null == "error":
        raise ValueError("is null; a value is needed")
    if column.on_null == "drop":
        raise DropRowError("is null")


def _text(value: Any, column: Column) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text is needed, got {value!r}")
    return value


def _int(value: Any, column: Column) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d+\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"a whole number is needed, got {value!r}")
    return value


def _float(value: Any, column: Column) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"a number is needed, got {value!r}")
    return number


def _bool(value: Any, column: Column) -> bool:
    words = {"true": True, "false": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if not isinstance(value, bool):
        raise ValueError(f"true or false is needed, got {value!r}")
    return value


def _date(value: Any, column: Column) -> dt.date:
    try:  # Excel has no dates without a time: midnight is the day
        return dt.date.fromisoformat(value.removesuffix("T00:00:00"))
    except (AttributeError, ValueError):
        raise ValueError(f"a date as 2022-10-31 is needed, got {value!r}") from None


def _datetime(value: Any, column: Column) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"a time as 2022-10-31T09:30:00Z is needed, got {value!r}") from None


def _list(value: Any, column: Column) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"a list is needed, got {value!r}")
    return value if column.items is None else _each(value, column.items)


def _each(values: list[Any], column: Column) -> list[Any]:
    """Every item checked; problems carry the item's place, counted from 0."""
    items, problems = [], []
    for number, value in enumerate(values):
        try:
            items.append(check_cell(value, column))
        except DropRowError:
            continue
        except ValueError as error:
            problems += [_at(number, str(part)) for part in error.args]
    if problems:
        raise ValueError(*problems)
    return items


def _at(number: int, problem: str) -> str:
    return f"[{number}]{problem}" if problem.startswith(("[", ".")) else f"[{number}]: {problem}"


def _object(value: Any, column: Column) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"an object is needed, got {value!r}")
    if column.columns is None:
        return value
    try:
        return check_cells(value, column.columns)
    except ValueError as error:  # DropRowError too
        raise type(error)(*(f".{part}" for part in error.args)) from None


def _table(value: Any, column: Column) -> list[Any]:
    """A list of objects as it is; a list of lists as objects where the columns are declared, else with its header."""
    if not isinstance(value, list):
        raise ValueError(f"a table (a list of lists or of objects) is needed, got {value!r}")
    if not value:
        return value
    lists = isinstance(value[0], list)
    width = len(column.columns or value[0]) if lists else 0
    problems = []
    for number, row in enumerate(value):
        if not isinstance(row, list if lists else dict):
            problems.append(f"[{number}]: {'a list' if lists else 'an object'} is needed, got {row!r}")
        elif lists and len(row) != width:
            problems.append(f"[{number}]: {len(row)} cells, the table has {width} columns")
        elif column.columns is None:
            cells: list[Any] = list(row.values()) if isinstance(row, dict) else row
            problems += [f"[{number}]: {cell!r} is not one cell" for cell in cells if isinstance(cell, list | dict)]
    if problems:
        raise ValueError(*problems)
    if column.columns is None:
        return value
    rows = [dict(zip(column.columns, row, strict=True)) for row in value] if lists else value
    return _each(rows, Column(type="object", columns=column.columns))


_PARSERS = {
    "str": _text, "int": _int, "float": _float, "bool": _bool, "date": _date, "datetime": _datetime, "list": _list,
    "object": _object, "table": _table,
}  # fmt: skip
