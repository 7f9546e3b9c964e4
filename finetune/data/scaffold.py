"""`finetune new template`: a first template guessed from sample rows, ready to run and meant to be edited."""

from __future__ import annotations

import datetime as dt
import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.data.columns import Column, check_cells
from finetune.data.formats import detect
from finetune.data.jinja import ENVIRONMENT, render
from finetune.data.limits import DEFAULT
from finetune.data.rows import Row
from finetune.data.template import load_template
from finetune.errors import DataError, RecipeError, did_you_mean, writing

MAX_CHOICES = 12  # distinct values of a column of choices
EXAMPLE = 50_000  # characters of the row that becomes the worked example
_INT = re.compile(r"\s*[-+]?(0|[1-9]\d*)\s*")  # 007 is a code, not a number
_FLOAT = re.compile(r"\s*[-+]?(0|[1-9]\d*)?(\.\d+)?([eE][-+]?\d+)?\s*")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
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


def scaffold_rows(rows: Sequence[Row], name: str, answer: str | None = None) -> str:
    """The same for rows already read."""
    if not rows:
        raise DataError("there are no rows to guess a template from")
    names = list(dict.fromkeys(key for row in rows for key in row.values))
    columns = {key: column for key in names if (column := guess([row.values.get(key) for row in rows]))}
    columns.pop("", None)
    if len(columns) < 2 or _are_conversations(rows):
        if _are_conversations(rows):
            raise DataError(
                f"{rows[0].file}: holds ready conversations; `data.format: {detect(rows)}` needs no template"
            )
        raise DataError(f"{rows[0].file}: a question and an answer need two columns whose values are of one type each")
    answer = answer if answer is not None else list(columns)[-1]
    if answer not in columns:
        mixed = "; its values are not all of one type" if answer in names else did_you_mean(answer, columns)
        raise DataError(f"{rows[0].file}: {answer}: can't be the answer column{mixed or '; no such column'}")
    if columns[answer].pop("nullable", False):
        columns[answer]["null"] = "drop"  # nothing to learn from a row without an answer
    inputs = [key for key in columns if key != answer]
    chinese = _mostly_chinese(rows, inputs)
    answered = [row for row in rows if row.values.get(answer) is not None]
    if not answered:
        raise DataError(f"{rows[0].file}: {answer}: no row has a value")
    first = next((row for row in answered if len(_json(row.values)) <= EXAMPLE), None)
    if first is None:
        raise DataError(f"{rows[0].file}: every row is longer than {EXAMPLE:,} characters; a worked example can't be")
    if "record" in columns and any(not _is_name(key) for key in columns):
        raise DataError(f"{rows[0].file}: record: a column of this name hides the whole record; call it something else")
    prompt = _prompt(columns, inputs, answer, chinese)
    left_out = [key for key in names if key and key not in columns]
    text = _document(name, rows[0].file, columns, answer, prompt, first, left_out)
    with tempfile.TemporaryDirectory() as folder:  # what is handed out has been run
        file = Path(folder) / "template.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            load_template(file).render_rows(rows)
        except RecipeError as error:
            reasons = [problem.replace(str(file), "the template guessed from it") for problem in error.problems]
            lead = rows[0].file
            raise DataError([r if r.startswith(lead) else f"{lead}: {r}" for r in reasons]) from None
    return text


def _are_conversations(rows: Sequence[Row]) -> bool:
    """Whether the rows hold lists of messages; columns of plain text may be a record's as well."""
    try:
        return detect(rows) in ("messages", "sharegpt")
    except DataError:
        return False


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


def _prompt(columns: dict[str, Any], inputs: list[str], answer: str, chinese: bool) -> str:
    """A line for each input, then the question."""
    lines = [f"{_label(key)}: {_shown(key, columns[key])}" for key in inputs]
    tables = {f"{_label(key)}: " for key in inputs if columns[key]["type"] == "table"}
    lines = [next((line.replace(lead, lead.rstrip() + "\n", 1) for lead in tables if line.startswith(lead)), line)
             for line in lines]  # fmt: skip
    question = f"请给出{_label(answer)}。" if chinese else f"Give {_label(answer)}."
    return "\n".join([*lines, question])


def _shown(key: str, column: dict[str, Any]) -> str:
    """The Jinja that writes a column."""
    name = key if _is_name(key) else f"record[{_json(key)}]"
    if column["type"] in ("table", "float"):
        return f"{{{{ {name} | {'table' if column['type'] == 'table' else 'number'} }}}}"
    if column["type"] == "object" or (column["type"] == "list" and "items" not in column):
        return f"{{{{ {name} | tojson }}}}"
    return f"{{{{ {name} | or_null }}}}" if column["type"] == "list" or "nullable" in column else f"{{{{ {name} }}}}"


def _is_name(key: str) -> bool:
    """Whether Jinja takes a column's name for a variable."""
    return key.isidentifier() and key not in _RESERVED - {"record"}


def _label(key: str) -> str:
    """A column's name as text of a template, without what Jinja or YAML would read as its own."""
    return " ".join("".join(c if c.isprintable() and c not in "{}" else " " for c in key).split()) or "value"


def _mostly_chinese(rows: Sequence[Row], inputs: Sequence[str]) -> bool:
    text = "".join(str(row.values.get(key)) for row in rows[:100] for key in inputs)[:20_000]
    letters = [character for character in text if character.isalpha()]
    return 2 * sum("\u4e00" <= character <= "\u9fff" for character in letters) > len(letters)


def _document(
    name: str, source: str, columns: dict[str, Any], answer: str, prompt: str, example: Row, left_out: list[str]
) -> str:
    """The template's YAML."""
    reply = f"{_label(answer)}: {_shown(answer, columns[answer])}"
    record = check_cells(example.values, {key: Column(**column) for key, column in columns.items()})
    answered = render(ENVIRONMENT.from_string(reply), {"record": record, **record}, DEFAULT)
    metric = "number" if columns[answer]["type"] in ("int", "float") else "fields"
    lines = [
        f"# Guessed from {Path(source).name}: check types, add units and ranges, and say in the prompt what is wanted.",
        f"name: {_json(name)}",
        f"description: {_json(f'{_label(answer)} from the other columns')}",
        "columns:",
        *(f"  {_key(key)}: {_flow(column)}" for key, column in columns.items()),
        *(f"  # left out, no one type fits its values: {_label(key)}" for key in left_out),
        "messages:",
        *_message("user", prompt),
        *_message("assistant", reply),
        f'metric: {{name: {metric}, separator: ": "}}',
        "examples:",
        "  - row:",
        *(f"      {_key(key)}: {_json(example.values.get(key))}" for key in columns),
        f"    answer: {_json(answered)}",
    ]
    return "\n".join(lines) + "\n"


def _message(role: str, text: str) -> list[str]:
    return [f"  - role: {role}", "    content: |", *(f"      {line}" for line in text.split("\n"))]


def _json(value: Any) -> str:
    """JSON, which YAML reads too; characters that YAML does not allow are escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: "".join(f"\\u{ord(c):04x}" for c in match[0]), text)


def _key(key: str) -> str:
    return key if key.isidentifier() and key.isprintable() else _json(key)


def _flow(value: Any) -> str:
    """A column's rules on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_json(item) for item in value) + "]"
    return value if isinstance(value, str) else _json(value)
