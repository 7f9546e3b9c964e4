"""`finetune new template`: a first template guessed from sample rows, ready to run and meant to be edited."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.answering import AnswerColumn, Answering
from finetune.data.columns import Column, check_cell, check_cells
from finetune.data.formats import detect
from finetune.data.guess import guess
from finetune.data.jinja import ENVIRONMENT, render
from finetune.data.limits import DEFAULT
from finetune.data.rows import Row
from finetune.data.template import Rendered, load_template
from finetune.errors import DataError, RecipeError, did_you_mean, writing

EXAMPLE = 50_000  # characters of the row that becomes the worked example
_UNPRINTABLE = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_RESERVED = {"and", "else", "false", "False", "if", "in", "is", "none", "None", "not", "or", "true", "True", "record",
             "range", "namespace", "loop", "self", "caller", "varargs", "kwargs"}  # fmt: skip


def write_template(sample: Path, answer: str | None, output: Path) -> None:
    """Writes the scaffold of a sample file to `output`, named after it.

    Raises:
        RecipeError: the sample can't be read or has no rows, no such answer column, or `output` is there already or
            can't be written.
    """
    if output.exists():
        raise DataError(f"{output}: is there already")
    text = scaffold(sample, output.stem, answer)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


def scaffold(sample_file: Path, name: str, answer: str | None = None) -> str:
    """The YAML text of a template for the rows of a file.

    Args:
        answer: the column to be answered; the last one when left out.

    Raises:
        DataError: as `write_template`.
    """
    from finetune.data.source import read_source
    from finetune.recipe_data import SourceSection

    return scaffold_rows(read_source(SourceSection(path=str(sample_file))), name, answer)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Guessed:
    """A template guessed from rows, and what was seen on the way.

    Attributes:
        text: the YAML.
        columns: name to type and rules, of the columns that have one type.
        left_out: the others.
        metric: the keys of the template's metric.
        rendered: all rows through the template.
    """

    text: str
    columns: dict[str, dict[str, Any]]
    left_out: list[str]
    answer: str
    metric: dict[str, Any]
    chinese: bool
    rendered: Rendered


def scaffold_rows(rows: Sequence[Row], name: str, answer: str | None = None) -> str:
    """The same for rows already read."""
    return guess_template(rows, name, answer).text


def guess_template(rows: Sequence[Row], name: str, answer: str | None = None, group: str | None = None) -> Guessed:
    """A template that renders all rows, its answers scored by a metric that gives each of them, held against itself, 1.

    Args:
        group: a column of names (ships, sites) whose next file has others; no choices are guessed of it.

    Raises:
        DataError: as `write_template`.
    """
    columns, left_out = _columns(rows)
    answer = answer if answer is not None else list(columns)[-1]
    first = _first_answered(rows, columns, left_out, answer)
    if columns[answer].pop("nullable", False):
        columns[answer]["null"] = "drop"  # nothing to learn from a row without an answer
    if group in columns and group != answer:
        columns[group].pop("choices", None)
    if "record" in columns and any(not _is_name(key) for key in columns):
        raise DataError(f"{rows[0].file}: record: a column of this name hides the whole record; call it something else")
    inputs = [key for key in columns if key != answer]
    chinese = _mostly_chinese(rows, inputs)
    rules = Column(**columns[answer])
    values = [check_cell(row.values[answer], rules) for row in rows if row.values.get(answer) is not None]
    shown, expression = _shown(answer, columns[answer]), _expression(answer)
    for way in AnswerColumn(plain_name(answer), columns[answer], shown, expression, chinese, values).ways():
        if not way.sound():
            continue
        prompt = _prompt(columns, inputs, answer, chinese, way.asked)
        text = _document(name, rows[0].file, columns, answer, prompt, way, first, left_out)
        rendered = _run(text, rows)
        if way.fits([sample.answer for sample in rendered.samples]):
            break
    return Guessed(text, columns, left_out, answer, way.metric, chinese, rendered)


def _columns(rows: Sequence[Row]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The columns that have one type, with it, and the names of those that have none."""
    if not rows:
        raise DataError("there are no rows to guess a template from")
    names = list(dict.fromkeys(key for row in rows for key in row.values))
    columns = {key: column for key in names if key and (column := guess([row.values.get(key) for row in rows]))}
    if _are_conversations(rows):
        raise DataError(
            f"{rows[0].file}: holds ready conversations; `data.format: {detect(rows)}` (or `auto`) needs no template"
        )
    if len(columns) < 2:
        raise DataError(f"{rows[0].file}: a question and an answer need two columns whose values are of one type each")
    return columns, [key for key in names if key and key not in columns]


def _first_answered(rows: Sequence[Row], columns: dict[str, Any], left_out: list[str], answer: str) -> Row:
    """The row that becomes the worked example."""
    file = rows[0].file
    if answer not in columns:
        mixed = "; its values are not all of one type" if answer in left_out else did_you_mean(answer, columns)
        raise DataError(f"{file}: {answer}: can't be the answer column{mixed or '; no such column'}")
    empty = [row.where for row in rows if isinstance(v := row.values.get(answer), str) and not v.strip()]
    if empty:
        which = f" ({len(empty)} rows: {', '.join(where.rpartition(':')[2] for where in empty[:10])})"
        more = which if len(empty) > 1 else ""
        raise DataError(f"{empty[0]}: {answer}: the answer is empty{more}; write one, or null, or leave the row out")
    answered = [row for row in rows if row.values.get(answer) is not None]
    if not answered:
        raise DataError(f"{file}: {answer}: no row has a value")
    first = next((row for row in answered if len(quoted(row.values)) <= EXAMPLE), None)
    if first is None:
        raise DataError(f"{file}: every row is longer than {EXAMPLE:,} characters; a worked example can't be")
    return first


def _run(text: str, rows: Sequence[Row]) -> Rendered:
    """All rows through a template's text: what is handed out has been run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "template.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            return load_template(file).render_rows(rows)
        except RecipeError as error:
            reasons = [problem.replace(str(file), "the template guessed from it") for problem in error.problems]
            lead = rows[0].file
            raise DataError([r if r.startswith(lead) else f"{lead}: {r}" for r in reasons]) from None


def _are_conversations(rows: Sequence[Row]) -> bool:
    """Whether the rows hold lists of messages; columns of plain text may be a record's as well."""
    try:
        return detect(rows) in ("messages", "sharegpt")
    except DataError:
        return False


def _prompt(columns: dict[str, Any], inputs: list[str], answer: str, chinese: bool, asked: str) -> str:
    """A line for each input, then the question."""
    lines = [f"{plain_name(key)}: {_shown(key, columns[key])}" for key in inputs]
    tables = {f"{plain_name(key)}: " for key in inputs if columns[key]["type"] == "table"}
    lines = [next((line.replace(lead, lead.rstrip() + "\n", 1) for lead in tables if line.startswith(lead)), line)
             for line in lines]  # fmt: skip
    question = f"请给出{plain_name(answer)}{asked}。" if chinese else f"Give {plain_name(answer)}{asked}."
    return "\n".join([*lines, question])


def _shown(key: str, column: dict[str, Any]) -> str:
    """The Jinja that writes a column."""
    name = _expression(key)
    if column["type"] in ("table", "float"):
        return f"{{{{ {name} | {'table' if column['type'] == 'table' else 'number'} }}}}"
    if column["type"] == "object" or (column["type"] == "list" and "items" not in column):
        return f"{{{{ {name} | tojson }}}}"
    return f"{{{{ {name} | or_null }}}}" if column["type"] == "list" or "nullable" in column else f"{{{{ {name} }}}}"


def _expression(key: str) -> str:
    """The Jinja that is a column's value."""
    return key if _is_name(key) else f"record[{quoted(key)}]"


def _is_name(key: str) -> bool:
    """Whether Jinja takes a column's name for a variable."""
    return key.isidentifier() and key not in _RESERVED - {"record"}


def plain_name(key: str) -> str:
    """A column's name as text of a template, without what Jinja or YAML would read as its own."""
    return " ".join("".join(c if c.isprintable() and c not in "{}" else " " for c in key).split()) or "value"


def _mostly_chinese(rows: Sequence[Row], inputs: Sequence[str]) -> bool:
    text = "".join(str(row.values.get(key)) for row in rows[:100] for key in inputs)[:20_000]
    letters = [character for character in text if character.isalpha()]
    return 2 * sum("\u4e00" <= character <= "\u9fff" for character in letters) > len(letters)


def _document(
    name: str,
    source: str,
    columns: dict[str, Any],
    answer: str,
    prompt: str,
    way: Answering,
    example: Row,
    left_out: list[str],
) -> str:
    """The template's YAML."""
    record = check_cells(example.values, {key: Column(**column) for key, column in columns.items()})
    answered = render(ENVIRONMENT.from_string(way.reply), {"record": record, **record}, DEFAULT)
    settings = [f"{key}: {value if key == 'name' else quoted(value)}" for key, value in way.metric.items()]
    lines = [
        f"# Guessed from {Path(source).name}: check types, add units and ranges, and say in the prompt what is wanted.",
        f"name: {quoted(name)}",
        f"description: {quoted(f'{plain_name(answer)} from the other columns')}",
        "columns:",
        *(f"  {_key(key)}: {_flow(column)}" for key, column in columns.items()),
        *(f"  # left out, no one type fits its values: {plain_name(key)}" for key in left_out),
        "messages:",
        *_message("user", prompt),
        *_message("assistant", way.reply),
        f"metric: {{{', '.join(settings)}}}",
        "examples:",
        "  - row:",
        *(f"      {_key(key)}: {quoted(example.values.get(key))}" for key in columns),
        f"    answer: {quoted(answered)}",
    ]
    return "\n".join(lines) + "\n"


def _message(role: str, text: str) -> list[str]:
    return [f"  - role: {role}", "    content: |", *(f"      {line}" for line in text.split("\n"))]


def quoted(value: Any) -> str:
    """JSON, which YAML reads too; characters that YAML does not allow are escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: "".join(f"\\u{ord(c):04x}" for c in match[0]), text)


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isprintable() else quoted(key)


def _flow(value: Any) -> str:
    """A column's rules on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(quoted(item) for item in value) + "]"
    return value if isinstance(value, str) else quoted(value)
