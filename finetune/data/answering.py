"""How the answer column of a guessed template is written and scored: the likely ways, most telling metric first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from finetune.data.metric import Metric
from finetune.data.strictjson import MalformedError, strict_json
from finetune.errors import DataError
from finetune.evaluate.corpus import family_of
from finetune.evaluate.metrics import check_metric, score_rows
from finetune.evaluate.quantity import read_quantity

MAX_KEYS = 50  # of an object whose schema is written out
ASKED = 120  # characters of the classes that the question lists


@dataclass(frozen=True)
class Answering:
    """Jinja of the answer, the metric's keys, and what the question adds (": a, b or c")."""

    reply: str
    metric: dict[str, Any]
    asked: str = ""

    def sound(self) -> bool:
        """Whether the metric is one: not with classes that are one but for case, or nothing but punctuation."""
        try:
            check_metric(Metric(**self.metric))
        except (DataError, ValidationError):
            return False
        return True

    def fits(self, answers: Sequence[str]) -> bool:
        """Whether the metric gives every answer, held against itself, all its points."""
        metric = Metric(**self.metric)
        distinct = list(dict.fromkeys(answers))
        rows = score_rows(distinct, distinct, [metric] * len(distinct))
        return all(value == 1 for row in rows for name, value in row.items() if family_of(name) is None)


@dataclass(frozen=True)
class AnswerColumn:
    """The column to be answered: its name as text, its rules, the Jinja that writes it, its values as the rules type
    them, and the variable or `record[...]` that holds it."""

    label: str
    rules: Mapping[str, Any]
    shown: str
    name: str
    chinese: bool
    values: Sequence[Any] = field(repr=False)

    def ways(self) -> Iterator[Answering]:
        """Few texts, or true and false: `label`. Numbers: `number`; with a unit in the text: `quantity`. Dates: `date`.
        Objects, also as text: `json`. Tables: `table`. Then `fields`, and `exact_match` for what can't be a field."""
        kind = self.rules["type"]
        if "choices" in self.rules:
            yield self._one_of(self.shown, list(self.rules["choices"]))
        elif kind == "bool":
            yes, no = ("是", "否") if self.chinese else ("yes", "no")
            yield self._one_of(f"{{{{ '{yes}' if {self.name} else '{no}' }}}}", [yes, no])
        elif kind in ("int", "float"):
            yield self._field("number")
        elif kind in ("date", "datetime"):
            yield self._field("date")
        elif kind == "object" and all(self.values):
            yield self._json(json.loads(json.dumps(self.values, default=str)))
        elif kind == "table" and all(self.values):
            yield Answering(self.shown, {"name": "table"})
        elif kind == "str" and (objects := _objects(self.values)):
            yield self._json(objects)
        elif kind == "str" and all(map(_is_quantity, self.values)):
            yield self._field("quantity")
        yield self._field("fields")
        yield Answering(self.shown, {"name": "exact_match"})

    def _field(self, metric: str) -> Answering:
        return Answering(f"{self.label}: {self.shown}", {"name": metric, "separator": ": "})

    def _one_of(self, reply: str, classes: list[str]) -> Answering:
        plain = all(re.fullmatch(r"[^\s{}]+( [^\s{}]+)*", name) and name.isprintable() for name in classes)
        *most, last = classes
        said = f"{'、'.join(most)}或{last}" if self.chinese else f"{', '.join(most)} or {last}"
        lead = "：" if self.chinese else ": "
        listed = plain and len(most) > 0 and len(said) <= ASKED
        return Answering(reply, {"name": "label", "labels": classes}, f"{lead}{said}" if listed else "")

    def _json(self, objects: list[Any]) -> Answering:
        return Answering(self.shown, {"name": "json", "schema": schema_of(objects)})


def _objects(values: Sequence[str]) -> list[Any] | None:
    """Texts that are all JSON objects, read."""
    found = []
    for text in values:
        if not text.lstrip().startswith("{"):
            return None
        try:
            found.append(strict_json(text.strip()))
        except MalformedError:
            return None
    return found


def _is_quantity(text: str) -> bool:
    """A number, and behind it nothing but its unit."""
    found = re.match(r"\s*[-+−]?\d[\d,. ]*", text)
    read = read_quantity(text) if found else None
    return read is not None and read.unit != "" and found is not None and text[found.end() :].strip() == read.said


def schema_of(values: Sequence[Any]) -> dict[str, Any]:
    """A JSON Schema that all values keep: types, the keys of objects, those that every object has. No ranges, no
    lists of values: the next file may go beyond them."""
    kinds = sorted({_kind(value) for value in values})
    if "integer" in kinds and "number" in kinds:
        kinds.remove("integer")
    schema: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds} if kinds else {}
    objects = [value for value in values if isinstance(value, dict)]
    keys = list(dict.fromkeys(key for value in objects for key in value))
    if keys and len(keys) <= MAX_KEYS:
        schema["properties"] = {key: schema_of([value[key] for value in objects if key in value]) for key in keys}
        if required := [key for key in keys if all(key in value for value in objects)]:
            schema["required"] = required
    items = [item for value in values if isinstance(value, list) for item in value]
    return schema | ({"items": schema_of(items)} if items else {})


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return "null" if value is None else kinds[type(value)]
