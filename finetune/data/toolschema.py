"""Function schemas and calls held against them (JSON Schema, draft 2020-12), and a call as canonical text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from finetune.errors import did_you_mean, first_line

_OPEN = {"additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref", "if"}


def calls_text(calls: Sequence[dict[str, Any]]) -> str:
    """Calls as metrics and golden samples have them: a JSON list of name and arguments, in their order."""
    functions = [call.get("function", call) for call in calls]
    plain = [{"name": item["name"], "arguments": _object(item.get("arguments"))} for item in functions]
    return json.dumps(plain, ensure_ascii=False)


def message_text(message: dict[str, Any]) -> str:
    """What a message says: its content, and its calls on a line of their own."""
    calls = message.get("tool_calls")
    parts = [message.get("content") or "", calls_text(calls) if calls else ""]
    return "\n".join(filter(None, parts))


def schema_problem(tool: dict[str, Any]) -> str | None:
    """Why the parameters of a tool are no JSON Schema of an object; None when they are."""
    found = _validator(json.dumps(tool["function"].get("parameters"), sort_keys=True))
    return found if isinstance(found, str) else None


def call_problems(name: str, arguments: Any, tools: Sequence[dict[str, Any]], closed: bool = True) -> list[str]:
    """What is wrong with a call: no such tool, arguments that its schema does not allow.

    A tool without a schema, or with one that is no JSON Schema, allows everything.

    Args:
        closed: a schema without a word on further properties allows none.
    """
    offered = {tool["function"]["name"]: tool["function"] for tool in tools}
    if name not in offered:
        return [f"{name!r} is not among the tools{did_you_mean(name, offered)}"]
    if not isinstance(arguments, dict):
        return [f"{name}: arguments: an object is needed, got {_cut(repr(arguments))}"]
    parameters = offered[name].get("parameters")
    if not isinstance(parameters, dict):  # nothing is said of them
        return []
    known = parameters.get("properties") or {}
    closed = closed and isinstance(known, dict) and not parameters.keys() & _OPEN
    problems = [
        f"{name}: {key}: not a parameter{did_you_mean(key, known)}" for key in arguments if closed and key not in known
    ]
    validator = _validator(json.dumps(parameters, sort_keys=True))
    if isinstance(validator, str):
        return problems
    try:
        errors = sorted(validator.iter_errors(arguments), key=lambda error: error.json_path)
    except Exception as error:  # jsonschema's own for references, re's for patterns
        return [f"{name}: its schema can't be used: {_cut(first_line(error))}"]
    for found in errors:
        place = found.json_path.removeprefix("$").removeprefix(".")
        problems.append(f"{name}: {place + ': ' if place else ''}{_cut(found.message)}")
    return problems


@lru_cache(maxsize=256)
def _validator(parameters: str) -> Any:
    """A validator of the schema in this JSON text, or why it is none. References beyond the schema lead nowhere."""
    from jsonschema import Draft202012Validator, SchemaError
    from referencing import Registry

    schema = json.loads(parameters) or {"type": "object"}
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        return f"a JSON Schema of type object is needed, got {_cut(parameters)}"
    empty = next(_empty(schema), None)
    if empty:
        return f"{empty}: has no value (in YAML a comma ends unquoted text in braces)"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = error.json_path.removeprefix("$").removeprefix(".")
        return f"{place + ': ' if place else ''}{_cut(error.message)}"
    return Draft202012Validator(schema, registry=Registry())


def _empty(schema: Any, at: str = "") -> Iterator[str]:
    """Keywords without a value; `const`, `default` and lists may hold null."""
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if value is None and key not in ("const", "default"):
            yield f"{at}{key}"
        yield from _empty(value, f"{at}{key}.")


def _object(arguments: Any) -> Any:
    """Arguments given as JSON text become the object; what can't be read stays as it is."""
    if isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments
    return {} if arguments is None else arguments


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."
