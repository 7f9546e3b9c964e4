"""The table of PEFT methods says what the servability rules say."""

from __future__ import annotations

import re

import pytest

from finetune.export.facts import recipe_facts
from finetune.export.rules import ENGINES
from finetune.export.servable import findings
from finetune.recipe_peft import PEFT_SECTIONS
from tests.conftest import ROOT


def served(kind: str, form: str) -> set[str]:
    """Engines that the rules let serve a plain recipe of the method in this form."""
    facts = recipe_facts(PEFT_SECTIONS[kind]().model_dump() | {"peft_type": kind.upper()}, {"model_type": "llama"})
    return {engine for engine in ENGINES if not any(f.severity != "warning" for f in findings(facts, engine, form))}


@pytest.mark.parametrize("name", ["adapters.md", "adapters.zh-CN.md"])
def test_the_table_follows_the_rules(name):
    """A row a method: `never` merges where no engine takes the merged form, peft alone serves where no other engine does."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    section = re.split(r"\n## (?:Methods|方法)\n", text)[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| `")
    ]
    methods = {row[0].strip("`"): row for row in rows if row[0] != "`peft_type`"}
    assert methods.keys() == PEFT_SECTIONS.keys()
    for kind, (_, _, stages, merges, unmerged) in methods.items():
        never = merges in ("never", "不能")
        assert served(kind, "merged") == (set() if never else set(ENGINES)), kind
        assert ("reward" in stages) == never, kind
        alone = unmerged.startswith("transformers")
        assert (served(kind, "adapter") == {"transformers"}) == alone, kind
        assert alone or {"transformers", "vllm", "llama.cpp", "sglang"} <= served(kind, "adapter"), kind
