"""Scores of an answer that is JSON: whether it can be read, keeps its schema, and says the same. Pure functions of text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from finetune.data.metric import Metric
from finetune.data.strictjson import MalformedError, strict_json
from finetune.errors import first_line
from finetune.evaluate.normalise import normalised

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:json|JSON)?[ \t]*\n(.*?)\n?[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


def json_answer(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """JSON against the reference's, value by value: numbers by value (within `tolerance`), texts after `normalise`.

    Returns:
        `valid_json`: the answer, or the one fenced block in it, is JSON (RFC 8259, no key twice);
        `bare_json`: and nothing stands around it, no fence either (unless the reference has one);
        `field_match`: share of the reference's leaves that are right; `all_fields`: all are and there are no others;
        with `schema`, `valid_schema`: the answer keeps it. Lists are compared in order, with `unordered` as sets whose
        items may come up several times.
    """
    (given, bare), (wanted, plain) = read_answer(answer), read_answer(reference)
    scores = {"valid_json": float(given is not None), "bare_json": float(given is not None and (bare or not plain))}
    if metric.json_schema is not None:
        scores["valid_schema"] = float(given is not None and schema_kept(given[0], metric.json_schema))
    if given is None or wanted is None:
        return scores | {"field_match": 0.0, "all_fields": 0.0}
    try:
        right, total = _matched(given[0], wanted[0], metric)
        whole = _same(given[0], wanted[0], metric)
    except RecursionError:
        return scores | {"field_match": 0.0, "all_fields": 0.0}
    return scores | {"field_match": right / total, "all_fields": float(whole)}


def read_answer(text: str) -> tuple[tuple[Any] | None, bool]:
    """The JSON value in a text, in a tuple (null is a value too), and whether the text is nothing but that value."""
    try:
        return (strict_json(text.strip()),), True
    except MalformedError:
        blocks = _FENCE.findall(text)
    if len(blocks) != 1:
        return None, False
    try:
        return (strict_json(blocks[0].strip()),), False
    except MalformedError:
        return None, False


def schema_kept(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value keeps a JSON Schema (draft 2020-12). One that can't be evaluated on this value is not kept."""
    try:
        return bool(_validator(json.dumps(schema, sort_keys=True)).is_valid(value))
    except Exception:  # references that lead nowhere, patterns that do not compile: whatever jsonschema and re raise
        return False


def schema_problem(schema: dict[str, Any]) -> str | None:
    """Why it is no JSON Schema; None when it is one."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = error.json_path.removeprefix("$").removeprefix(".")
        return f"metric.schema: {place + ': ' if place else ''}{first_line(error)}"
    missing = _dead_reference(schema)
    return f"metric.schema: $ref {missing!r} leads nowhere in this schema" if missing else None


def _dead_reference(schema: dict[str, Any]) -> str | None:
    """A reference to what the schema itself does not hold: nothing is fetched."""
    from referencing import Registry
    from referencing.exceptions import NoSuchResource, Unresolvable
    from referencing.jsonschema import DRAFT202012

    resource = DRAFT202012.create_resource(schema)
    base = resource.id() or ""
    resolver = Registry().with_resource(base, resource).resolver(base)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except (Unresolvable, NoSuchResource):
            return reference
    return None


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict) and isinstance(part.get("$ref"), str):
        yield part["$ref"]
    for item in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _references(item)


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(json.loads(schema), registry=Registry())


def _matched(given: Any, wanted: Any, metric: Metric) -> tuple[int, int]:
    """How many of the wanted leaves are right, and how many there are; an empty object or list is one leaf."""
    if isinstance(wanted, dict) and wanted:
        mine = given if isinstance(given, dict) else {}
        counts = [_matched(mine.get(key, _NOTHING), value, metric) for key, value in wanted.items()]
    elif isinstance(wanted, list) and wanted:
        items = list(given) if isinstance(given, list) else []
        paired = _paired(items, wanted, metric) if metric.unordered else [*items, *[_NOTHING] * len(wanted)]
        counts = [_matched(item, value, metric) for item, value in zip(paired, wanted, strict=False)]
    else:
        return int(_same(given, wanted, metric)), 1
    return sum(right for right, _ in counts), sum(total for _, total in counts)


_NOTHING = object()


def _paired(given: list[Any], wanted: Sequence[Any], metric: Metric) -> list[Any]:
    """For each wanted item the given one that fits best; whole matches first, so that half ones do not take them."""
    found: list[Any] = [_NOTHING] * len(wanted)
    left = list(range(len(given)))
    for index, value in enumerate(wanted):
        whole = next((i for i in left if _same(given[i], value, metric)), None)
        if whole is not None:
            found[index] = given[whole]
            left.remove(whole)
    for index, value in enumerate(wanted):
        if found[index] is _NOTHING and left and isinstance(value, dict | list):  # a leaf is right whole or not at all
            best = max(left, key=lambda i: _matched(given[i], value, metric)[0])
            found[index] = given[best]
            left.remove(best)
    return found


def _same(one: Any, other: Any, metric: Metric) -> bool:
    """Equal all through: no leaf missing on either side."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key], metric) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return False
        items = _whole_pairs(one, other, metric) if metric.unordered else one
        return items is not None and all(_same(item, value, metric) for item, value in zip(items, other, strict=True))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or _near(one, other, metric.tolerance)
    if isinstance(one, str) and isinstance(other, str):
        return normalised(one, metric.normalise) == normalised(other, metric.normalise)
    return one is None and other is None


def _near(one: float, other: float, tolerance: float) -> bool:
    try:
        return abs(one - other) <= tolerance * abs(other)
    except OverflowError:  # an integer beyond floats
        return False


def _whole_pairs(one: list[Any], other: list[Any], metric: Metric) -> list[Any] | None:
    """The items of one list in the order of their equals in the other; None where one has no equal left."""
    left, ordered = list(one), []
    for value in other:
        index = next((i for i, item in enumerate(left) if _same(item, value, metric)), None)
        if index is None:
            return None
        ordered.append(left.pop(index))
    return ordered
