"""The schema of a recipe file: the keys of its model, the short forms that a file may use, nothing that a parent may give
required."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.device import DEVICES
from finetune.recipe import IN_MIXTURES, OF_ONE_PART, OF_ONE_STAGE, TRACKERS, Recipe
from finetune.recipe_peft import PEFT_SECTIONS
from finetune.schema.adapter import adapter_section
from finetune.schema.meanings import with_meanings
from finetune.schema.tidy import Node, definitions_of, document, ref

WHOLE_AT_ONCE = ("TargetSection",)  # stand in lists, which a child replaces: what they need, they have
EXTENDS = {
    "type": "string",
    "description": "One parent recipe, relative to this file: sections merge key by key, lists and values replace.",
}
NOT_OF_A_WHOLE = ("weight", "loss_weight")  # of a part of a mixture


def recipe_schema() -> Node:
    """The JSON Schema of a recipe file.

    It says what each key may hold. What only several keys together or other files can tell stays with `finetune check`.
    """
    definitions = definitions_of(Recipe)
    for name, definition in definitions.items():
        if name not in WHOLE_AT_ONCE:
            definition.pop("required", None)
    for section in PEFT_SECTIONS.values():
        definitions[section.__name__] = adapter_section(section, definitions[section.__name__])
    _short_forms(definitions)
    _words(definitions)
    whole = definitions.pop("Recipe")
    with_meanings(whole, definitions)
    definitions["Stage"] = _entry(whole, OF_ONE_STAGE, "One stage of a chain, over the keys of the whole.")
    definitions["Part"] = _entry(whole, OF_ONE_PART, "One part of a mixture, over the `data` of the whole.")
    definitions["Part"]["required"] = ["weight"]
    definitions["Part"]["properties"]["stage"] |= {"enum": [*IN_MIXTURES]}
    keys = {name: node for name, node in whole["properties"].items() if name not in NOT_OF_A_WHOLE}
    keys["stages"] = keys["stages"] | {"items": ref("Stage"), "minItems": 1}
    keys["mixture"] = keys["mixture"] | {"items": ref("Part"), "minItems": 1}
    top = {"type": "object", "additionalProperties": False, "properties": {"extends": EXTENDS} | keys}
    return document("A recipe of finetune", top, definitions)


def _entry(whole: Node, keys: Sequence[str], what: str) -> Node:
    properties = {key: dict(whole["properties"][key]) for key in keys}
    return {"type": "object", "additionalProperties": False, "description": what, "properties": properties}


def _short_forms(definitions: dict[str, Node]) -> None:
    """What a file may write instead of a list, and instead of a section (see finetune/recipepaths.py)."""
    text = {"type": "string"}
    source = {"anyOf": [text, ref("SourceSection")]}
    for section, key in (("DataSection", "train"), ("DataSection", "eval"), ("SuiteSection", "data")):
        _one_or_more(definitions[section], key, source)
    _one_or_more(definitions["ScreenSection"], "benchmarks", text)
    engine = definitions["TargetSection"]["properties"]["engine"]
    _one_or_more(definitions["ExportSection"], "targets", {"anyOf": [dict(engine), ref("TargetSection")]})
    _one_or_more(definitions["ModelSection"], "add_tokens", text)  # the text is a file's name


def _one_or_more(section: Node, key: str, item: Node) -> None:
    listed = section["properties"][key]
    section["properties"][key] = {"anyOf": [*item.get("anyOf", [item]), listed | {"items": item}]}


def _words(definitions: dict[str, Node]) -> None:
    """Words that validators hold against a table."""
    definitions["Recipe"]["properties"]["report_to"]["items"] = {"type": "string", "enum": [*TRACKERS]}
    attention = dict.fromkeys(word for row in DEVICES.values() for word in row.attention)
    definitions["ModelSection"]["properties"]["attn_implementation"]["enum"] = ["auto", *attention]
