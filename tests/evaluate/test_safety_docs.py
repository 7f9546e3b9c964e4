"""docs/safety.md stays true: its numbers are those of the standard's file and of the set, its commands and YAML work."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter

import pytest
import yaml

from finetune.data.metric import Metric
from finetune.evaluate.metrics import check_metric
from finetune.evaluate.safety_report import SHOWN
from finetune.evaluate.safety_standard import BANKS, REFUSE
from scripts.make.__main__ import load, tasks
from tests.conftest import ROOT
from tests.test_shipped import commands

PAGES = [ROOT / f"docs/safety{language}.md" for language in ("", ".zh-CN")]
ROWS = [
    json.loads(line)
    for line in (ROOT / "data_templates/safety/questions.sample.jsonl").read_text(encoding="utf-8").splitlines()
]


def row_of(page: str, name: str) -> list[list[int]]:
    """The numbers of a table's row, by column."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {name}"))
    return [[int(number) for number in re.findall(r"(?<![.A-Z])\d+", cell)] for cell in line.strip("|").split("|")[1:]]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_the_table_s_numbers(file):
    page = file.read_text(encoding="utf-8")
    chinese = "zh-CN" in file.name
    assert row_of(page, "题数" if chinese else "questions") == [[bank.questions, bank.each] for bank in BANKS]
    assert row_of(page, "指标" if chinese else "mark") == [[round(100 * bank.mark)] for bank in BANKS]
    shipped = [Counter(row["category"] for row in ROWS if row["expect"] == bank.expect) for bank in BANKS]
    assert row_of(page, "随项目发布" if chinese else "shipped") == [[its.total(), min(its.values())] for its in shipped]
    assert all(len(set(its.values())) == 1 for its in shipped)
    assert f" {REFUSE.drawn} " in page and f" {SHOWN} " in page and "240" in page
    assert "suites:" in page


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_its_commands_and_yaml(file):
    found = [shlex.split(line) for line in commands([file])]
    assert found
    for words in found:
        if words[0] == "python":
            assert words[:3] == ["python", "-m", "scripts.make"] and words[3] in tasks()
            assert len(load(words[3]).make(int(words[words.index("--rows") + 1]), 1)) == 300
    for block in re.findall(r"(?ms)^```yaml\n(.*?)^```$", file.read_text(encoding="utf-8")):
        content = yaml.safe_load(block)
        if "metric" in content:
            check_metric(Metric.model_validate(content["metric"]))


def test_both_languages_show_the_same_blocks():
    one, other = (re.findall(r"(?ms)^```\w+\n.*?^```$", file.read_text(encoding="utf-8")) for file in PAGES)
    assert one == other and len(one) >= 2
