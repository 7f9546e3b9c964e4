"""The documents stay true: every key of a recipe is in the table, with its default; both languages have it."""

from __future__ import annotations

import re

import pytest
import yaml
from pydantic_core import PydanticUndefined

from finetune.data.rows import Row
from finetune.data.template import load_template
from finetune.recipe import Recipe
from finetune.recipefile import section_class
from tests.conftest import ROOT


def keys(model=Recipe, prefix="") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        inner = None if f"{prefix}{name}" in ("data.train", "data.eval") else section_class(field.annotation)
        if inner:
            found |= keys(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field.default
    return found


@pytest.mark.parametrize("name", ["docs/recipe.md", "docs/recipe.zh-CN.md"])
def test_every_key_is_documented_with_its_default(name):
    keys_part = (ROOT / name).read_text(encoding="utf-8").split("\n## ")[0]
    table = [line for line in keys_part.splitlines() if line.startswith("| `")]
    documented: dict[str, str] = {}
    for line in table:
        names, defaults, _ = (cell.strip() for cell in line.strip("|").split("|", 2))
        shown = re.findall(r"`([^`]+)`", defaults)
        for index, key in enumerate(re.findall(r"`([^`]+)`", names)):
            documented[key] = shown[index] if index < len(shown) else defaults
    assert documented.keys() - {"lora.*"} == keys().keys()
    for key, default in keys().items():
        if isinstance(default, bool | int | float) and default is not PydanticUndefined:
            assert yaml.safe_load(documented[key].replace("e-", ".0e-")) == default, key


@pytest.mark.parametrize("name", ["docs/data_template.md", "docs/data_template.zh-CN.md"])
def test_the_template_in_the_document_works(name, tmp_path):
    text = (ROOT / name).read_text(encoding="utf-8")
    file = tmp_path / "t.yaml"
    file.write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1], encoding="utf-8")
    template = load_template(file)
    sample = template.render(Row({"sensor": "T1", "ch4_pct": 0.4, "minutes": 5, "grade": "normal"}, "f", 1))
    assert sample.answer == "grade: normal"
