"""docs/lora.md stays true: its variants are tested, its engines are those of the rules, its refusals those of the table."""

from __future__ import annotations

import re

import pytest
import yaml

from finetune.export.facts import recipe_facts
from finetune.export.rules import ENGINES
from finetune.export.servable import findings
from finetune.lora_fields import LORA_ROWS
from finetune.recipe_peft import LoraSection
from tests.conftest import ROOT
from tests.model.test_lora_variants import VARIANTS

PAGES = ["docs/lora.md", "docs/lora.zh-CN.md"]


def tables(page: str) -> list[list[list[str]]]:
    """The page's tables: rows of cells, without the heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"(?m)^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()] for table in found]


def engines(settings: dict) -> list[str]:
    """Those that serve the exported adapter of these settings without merging it, on a base whose ends are two."""
    facts = recipe_facts(LoraSection(**settings).settings(), {"model_type": "qwen3"}, initial=True)
    refused = {e: any(f.severity != "warning" for f in findings(facts, e, "adapter")) for e in ENGINES}
    return [engine for engine in ENGINES if not refused[engine]]


@pytest.mark.parametrize("page", PAGES)
def test_variants(page):
    rows = tables(page)[0]
    assert len(rows) > 15
    tested = [lora for _, _, lora, _ in VARIANTS.values()]
    for _, cell, _, served in rows:
        settings = yaml.safe_load(cell.strip("`"))
        told = (
            [engine for engine in ENGINES if engine != served.rpartition(" ")[2]]
            if served.startswith("all")
            else served.split(", ")
        )
        assert engines(settings) == told, cell
        same = {k: v for k, v in settings.items() if isinstance(v, str | bool)}
        assert any(settings.keys() <= lora.keys() and same.items() <= lora.items() for lora in tested), cell


@pytest.mark.parametrize("page", PAGES)
def test_refused_fields(page):
    named = {name for row in tables(page)[-1] for name in re.findall(r"`([^`]+)`", row[0])}
    assert named == {name for name, row in LORA_ROWS.items() if row.refused}


def test_both_languages_have_the_same_rows():
    english, chinese = (
        [[re.findall(r"`([^`]+)`", cells[0] + cells[1])[:1] for cells in table] for table in tables(page)]
        for page in PAGES
    )
    assert [len(table) for table in english] == [len(table) for table in chinese]
    one, other = ([cells[1] for cells in tables(page)[0]] for page in PAGES)
    assert one == other
