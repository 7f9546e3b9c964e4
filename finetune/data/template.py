"""A data template: the contract between raw records and chat messages. Typed columns, messages in Jinja, a metric."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finetune.data.rows import Row, Sample
from finetune.errors import DataError, did_you_mean
from finetune.yamlfile import Lines, read_yaml


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Column(_Part):
    """What a column may hold. `unit` is for the reader; `minimum` and `maximum` are in that unit, both included."""

    type: Literal["str", "int", "float", "bool", "date", "datetime", "list"]
    description: str | None = None
    unit: str | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: Annotated[tuple[Any, ...], Field(strict=False)] | None = None
    pattern: str | None = None
    items: Literal["str", "int", "float"] | None = None
    nullable: bool = False


class MessageTemplate(_Part):
    """One message; `content` is Jinja over the columns. White space around the rendered text is cut off."""

    role: Literal["system", "user", "assistant"]
    content: str


class Metric(_Part):
    """How an answer is scored: a name out of METRICS and its settings."""

    name: str
    separator: str = ": "
    tolerance: float = Field(0.0, ge=0)


class Example(_Part):
    """A worked example: this row must render to this last answer (and this last user message, when given)."""

    row: dict[str, Any]
    answer: str
    prompt: str | None = None


class _TemplateFile(_Part):
    name: str
    description: str
    columns: dict[str, Column]
    messages: Annotated[tuple[MessageTemplate, ...], Field(strict=False, min_length=1)]
    metric: Metric
    examples: Annotated[tuple[Example, ...], Field(strict=False, min_length=1)]


class DataTemplate:
    """A checked template file.

    Attributes:
        path: the YAML file; its text goes into the bundle as it is.
        columns: column name to what it may hold.
        metric: how answers are scored.
    """

    def __init__(self, path: Path, content: _TemplateFile) -> None:
        self.path = path
        self.name = content.name
        self.columns = content.columns
        self.metric = content.metric
        self.examples = content.examples
        self._messages = [(part.role, ENVIRONMENT.from_string(part.content)) for part in content.messages]

    def render_all(self, rows: Sequence[Row]) -> list[Sample]:
        """Every row rendered.

        Raises:
            DataError: every bad cell as `file:line: column: what was wrong`; a nullable column that no row has.
        """
        samples: list[Sample] = []
        problems: list[str] = []
        seen: set[str] = set()
        for row in rows:
            seen.update(row.values)
            try:
                samples.append(self.render(row))
            except DataError as error:
                problems += error.problems
        for name in sorted(set(self.columns) - seen) if rows else []:
            if self.columns[name].nullable:  # where it is not, every row has said so already
                problems.append(f"{rows[0].file}: {name}: no row has this column{did_you_mean(name, seen)}")
        if problems:
            raise DataError(problems)
        return samples

    def render(self, row: Row) -> Sample:
        """One row checked against the columns and rendered to messages.

        Raises:
            DataError: all cells of the row that break their column's rules, or a message that renders to nothing.
        """
        record: dict[str, Any] = {}
        problems: list[str] = []
        for name, column in self.columns.items():
            try:
                if name not in row.values and not column.nullable:
                    raise ValueError(f"is missing{did_you_mean(name, set(row.values) - set(self.columns))}")
                record[name] = check_cell(row.values.get(name), column)
            except ValueError as error:
                problems.append(f"{row.where}: {name}: {error}")
        if problems:
            raise DataError(problems)
        messages = []
        for role, template in self._messages:
            try:
                text = template.render(record).strip()
            except (jinja2.TemplateError, SecurityError, TypeError, ValueError, ArithmeticError) as error:
                raise DataError(f"{row.where}: the {role} message of {self.path} can't be rendered: {error}") from None
            if not text:
                raise DataError(f"{row.where}: the {role} message of {self.path} renders to nothing")
            messages.append({"role": role, "content": text})
        return Sample(record, tuple(messages), row.where)


def load_template(path: Path) -> DataTemplate:
    """The template in a YAML file, its Jinja compiled, its worked examples run.

    Raises:
        DataError: wrong keys, Jinja that does not parse or names an undeclared column, an example that does not hold.
    """
    data, lines = read_yaml(path)
    try:
        content = _TemplateFile.model_validate(data)
    except ValidationError as error:
        raise DataError([_problem(path, item, lines) for item in error.errors()]) from None
    problems = _jinja_problems(path, content, lines)
    if content.messages[-1].role != "assistant":
        problems.append(
            f"{path}:{lines[('messages',)]}: messages: the last message must be the assistant's (the answer)"
        )
    if problems:
        raise DataError(problems)
    template = DataTemplate(path, content)
    problems = _example_problems(template, lines)
    if problems:
        raise DataError(problems)
    return template


def check_cell(value: Any, column: Column) -> Any:
    """The typed value of one cell; text from CSV is read as the column's type.

    Raises:
        ValueError: what is wrong with it and what is allowed.
    """
    if value is None:
        if not column.nullable:
            raise ValueError("is null; a value is needed")
        return None
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
    except (TypeError, ValueError):
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
    try:
        return dt.date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"a date as 2022-10-31 is needed, got {value!r}") from None


def _datetime(value: Any, column: Column) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"a time as 2022-10-31T09:30:00Z is needed, got {value!r}") from None


def _list(value: Any, column: Column) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"a list is needed, got {value!r}")
    return [_PARSERS[column.items](item, column) for item in value] if column.items else value


_PARSERS = {
    "str": _text, "int": _int, "float": _float, "bool": _bool, "date": _date, "datetime": _datetime, "list": _list,
}  # fmt: skip


def _number(value: float | None, null: str = "none") -> str:
    """Jinja filter: 12.0 as `12`, 6.21 as `6.21`, no exponent, null as `none`."""
    if value is None:
        return null
    return f"{value:f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _decimals(value: float | None, places: int, null: str = "none") -> str:
    """Jinja filter: a fixed number of decimal places."""
    return null if value is None else f"{value:.{places}f}"


def _or_null(value: Any, null: str = "none") -> str:
    """Jinja filter: text as it is, null and the empty list as `none`; a list is joined with commas."""
    if value is None or value == []:
        return null
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "decimals": _decimals, "or_null": _or_null}
    return environment


ENVIRONMENT = _environment()


def _jinja_problems(path: Path, content: _TemplateFile, lines: Lines) -> list[str]:
    problems = []
    for index, part in enumerate(content.messages):
        line = lines.get(("messages", str(index), "content"), 0)
        try:
            tree = ENVIRONMENT.parse(part.content)
        except jinja2.TemplateSyntaxError as error:
            problems.append(f"{path}:{line}: messages: Jinja line {error.lineno}: {error.message}")
            continue
        names = meta.find_undeclared_variables(tree)
        assigned = {name.name for name in tree.find_all(jinja2.nodes.Name) if name.ctx == "store"}
        for name in sorted(names - assigned - set(content.columns)):
            problems.append(f"{path}:{line}: messages: {name}: not a column{did_you_mean(name, content.columns)}")
    return problems


def _example_problems(template: DataTemplate, lines: Lines) -> list[str]:
    problems = []
    for index, example in enumerate(template.examples):
        line = lines.get(("examples", str(index)), 0)
        try:
            sample = template.render(Row(example.row, str(template.path), line))
        except DataError as error:
            problems += error.problems
            continue
        user = next((item["content"] for item in reversed(sample.prompt) if item["role"] == "user"), "")
        for what, expected, got in (("answer", example.answer, sample.answer), ("prompt", example.prompt, user)):
            if expected is not None and expected.strip() != got:
                problems.append(f"{template.path}:{line}: examples: the row renders to the {what} {got!r}")
    return problems


def _problem(path: Path, item: Any, lines: Lines) -> str:
    location = tuple(str(part) for part in item["loc"])
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), 1)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        known: dict[str, type[_Part]] = {
            "columns": Column, "messages": MessageTemplate, "metric": Metric, "examples": Example,
        }  # fmt: skip
        section = known.get(location[0], _TemplateFile) if len(location) > 1 else _TemplateFile
        message = f"unknown key{did_you_mean(location[-1], section.model_fields)}"
    return f"{path}:{line}: {'.'.join(location)}: {message[0].lower() + message[1:]}"
