"""What each key means, in the words of the documents' tables; meanings.json is made of them by scripts/make_schema.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from finetune.schema.tidy import PLACE, Node

FILE = "meanings.json"
AROUND = ("see above", "see below")  # of a table: the text around it


@cache
def meanings() -> dict[str, dict[str, str]]:
    """Meaning by key, under the class whose keys they are; under "" by the whole key of a recipe."""
    told: dict[str, dict[str, str]] = json.loads(files("finetune.schema").joinpath(FILE).read_text(encoding="utf-8"))
    return told


def with_meanings(whole: Node, definitions: dict[str, Node]) -> None:
    """Every key that the documents explain has its meaning as its description."""
    told = meanings()
    for key, meaning in told[""].items():
        *sections, last = key.split(".")
        place: Any = whole
        for section in sections:
            place = _section(place, section, definitions)
        if place is not None and last in place["properties"]:
            place["properties"][last]["description"] = meaning
    for name, keys in told.items():
        for key, meaning in keys.items() if name in definitions else ():
            definitions[name]["properties"][key]["description"] = meaning


def _section(place: Node | None, key: str, definitions: dict[str, Node]) -> Node | None:
    """The definition that a key of a section points to."""
    node = place["properties"].get(key) if place else None
    if node is None:
        return None
    target = node.get("$ref") or next((inner["$ref"] for inner in node.get("anyOf", ()) if "$ref" in inner), None)
    return definitions[target.removeprefix(PLACE)] if target else None


def read_tables(text: str, document: str) -> dict[str, str]:
    """Meaning by key out of the rows of a document's tables that begin with keys in back quotes."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        keys = re.findall(r"`([^`]+)`", cells[0]) if len(cells) >= 2 else []
        if keys and cells[0].startswith("`"):
            meaning = f"see {document}" if cells[-1] in AROUND else cells[-1]
            found |= dict.fromkeys(keys, _plain(keys, meaning))
    return found


def _plain(keys: Iterable[str], meaning: str) -> str:
    """Links as the names of the files; where a row is about several keys, which."""
    text = re.sub(r"\[([^\]]+)\]\(([^)#]+\.md)(?:#[^)]*)?\)", r"docs/\2", meaning)
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text).replace(" (see below)", "")
    names = [key.rpartition(".")[2] for key in keys]
    return text if len(set(names)) == 1 else f"{', '.join(names)}: {text}"
