"""`finetune schema`: the JSON Schema of recipes, or of data templates, for editors and validators."""

from __future__ import annotations

import argparse
import json
import sys

from finetune.errors import writing
from finetune.schema.tidy import Node


def schema_command(options: argparse.Namespace) -> None:
    """Writes the schema to `--output`, else prints it.

    Raises:
        RecipeError: the file can't be written.
    """
    if options.template:
        from finetune.schema.template import template_schema as schema
    else:
        from finetune.schema.recipe import recipe_schema as schema
    text = written(schema())
    if options.output is None:
        sys.stdout.write(text)
        return
    with writing(options.output):
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, encoding="utf-8")


def written(schema: Node) -> str:
    """The schema as a file holds it."""
    return json.dumps(schema, ensure_ascii=False, indent=1) + "\n"
