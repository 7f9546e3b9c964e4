"""Writes the meanings of keys (out of the documents' tables) and the schemas that recipes and data templates name.

    python scripts/make_schema.py

tests/test_schema.py says when it has to be run again.
"""

from __future__ import annotations

import json
from pathlib import Path

from finetune.schema.command import written
from finetune.schema.meanings import FILE, meanings, read_tables
from finetune.schema.recipe import recipe_schema
from finetune.schema.template import template_schema

ROOT = Path(__file__).resolve().parent.parent
OF_CLASS = {"Targets": "TargetSection", "Sources": "SourceSection"}  # headings of docs/recipe.md


def told() -> dict[str, dict[str, str]]:
    """What meanings.json holds."""
    recipe, *chapters = (ROOT / "docs/recipe.md").read_text(encoding="utf-8").split("\n## ")
    stages = read_tables((ROOT / "docs/stages.md").read_text(encoding="utf-8"), "docs/stages.md")
    keys = read_tables(recipe, "docs/recipe.md") | {
        key: meaning for key, meaning in stages.items() if "." in key and key[0] != "."
    }
    found = {"": {key: meaning for key, meaning in keys.items() if "*" not in key}}
    for chapter in chapters:
        name = OF_CLASS.get(chapter.partition("\n")[0])
        found |= {name: read_tables(chapter, "docs/recipe.md")} if name else {}
    metrics = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    table = metrics[metrics.index("| setting |") :].partition("\n\n")[0]
    return found | {"Metric": read_tables(table, "docs/metrics.md")}


def main() -> None:
    meaning = json.dumps(told(), ensure_ascii=False, indent=1) + "\n"
    (ROOT / "finetune/schema" / FILE).write_text(meaning, encoding="utf-8")
    meanings.cache_clear()
    (ROOT / "recipes/recipe.schema.json").write_text(written(recipe_schema()), encoding="utf-8")
    (ROOT / "data_templates/template.schema.json").write_text(written(template_schema()), encoding="utf-8")


if __name__ == "__main__":
    main()
