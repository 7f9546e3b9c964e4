"""Values of a data template that keep their type: `{{ x }}` alone is x itself, other text is rendered, objects go deep."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes

from finetune.data.jinja import ENVIRONMENT, evaluate, render
from finetune.data.limits import Limits, size_of

Native = Callable[[dict[str, Any], Limits], Any]


def expression_of(text: str) -> str | None:
    """The expression of a text that is one `{{ expression }}` and nothing else.

    Raises:
        jinja2.TemplateSyntaxError: the text is no Jinja.
    """
    bare = text.strip()
    if not (bare.startswith("{{") and bare.endswith("}}")):
        return None
    body = ENVIRONMENT.parse(bare).body
    whole = len(body) == 1 and isinstance(body[0], nodes.Output) and len(body[0].nodes) == 1
    if not whole or isinstance(body[0].nodes[0], nodes.TemplateData):  # type: ignore[attr-defined]
        return None
    return bare[2:-2].strip("-+ \n\t")


def texts_in(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text in a value, with the keys that lead to it; keys themselves are literal."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_in(item, (*at, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from texts_in(item, (*at, str(index)))


def compile_native(value: Any) -> Native:
    """A function from a record's values to the value with its Jinja evaluated.

    Calling it raises whatever the expressions raise; LimitError where they cost more than the limits.
    """
    if isinstance(value, str):
        source = expression_of(value)
        if source is None:
            template = ENVIRONMENT.from_string(value)
            return lambda values, limits: render(template, values, limits)
        expression = ENVIRONMENT.compile_expression(source, undefined_to_none=False)
        return lambda values, limits: _plain(evaluate(expression, values, limits))
    if isinstance(value, dict):
        parts = {key: compile_native(item) for key, item in value.items()}
        return lambda values, limits: {key: part(values, limits) for key, part in parts.items()}
    if isinstance(value, list | tuple):
        items = [compile_native(item) for item in value]
        return lambda values, limits: [item(values, limits) for item in items]
    return lambda values, limits: value


def _plain(value: Any) -> Any:
    """What JSON can hold; dates and times in ISO form."""
    size_of(value)  # raises for what is no plain data
    if isinstance(value, jinja2.Undefined):
        return str(value)  # a strict one says what is missing
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r} can't be written as JSON")
