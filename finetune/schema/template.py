"""The schema of a data template file: its keys, with the short forms that its readers take."""

from __future__ import annotations

from typing import Any

from finetune.data.templatefile import TemplateFile
from finetune.schema.meanings import with_meanings
from finetune.schema.tidy import Node, definitions_of, document, ref


def template_schema() -> Node:
    """The JSON Schema of a data template file. What Jinja and columns have to do with each other stays with the reader."""
    definitions = definitions_of(TemplateFile)
    column: dict[str, Any] = definitions["Column"]["properties"]
    kinds = dict(column["type"])
    column["items"] = {"anyOf": [kinds, ref("Column"), {"type": "null"}]}  # `items: int`
    metric = definitions["Metric"]["properties"]
    metric["labels"] = _labels()
    metric["json_schema"] = metric["schema"] | {"doNotSuggest": True}  # the same by its other name
    whole = definitions.pop("TemplateFile")
    with_meanings(whole, definitions)
    return document("A data template of finetune", whole, definitions)


def _labels() -> Node:
    """Names alone, or with their synonyms."""
    text = {"type": "string"}
    synonyms = {"anyOf": [text, {"type": "array", "items": text}, {"type": "null"}]}
    return {
        "anyOf": [
            {"type": "array", "items": text, "uniqueItems": True},
            {"type": "object", "additionalProperties": synonyms},
        ]
    }
