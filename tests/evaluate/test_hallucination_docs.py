"""docs/hallucination.md stays true: its cases, its settings, its table of tasks."""

from __future__ import annotations

import re

import pytest
import yaml

from finetune.data.metric import Grounded, Metric
from finetune.data.rows import Sample
from finetune.data.template import load_template
from finetune.evaluate.support import beside
from finetune.inputs import known_scores, load_data
from finetune.recipefile import load_recipe
from tests.conftest import ROOT
from tests.evaluate.test_beside import TEMPLATES

PAGES = ["docs/hallucination.md", "docs/hallucination.zh-CN.md"]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[dict]:
    found = [yaml.safe_load(text) for text in re.findall(r"(?ms)^```yaml\n(.*?)^```$", text_of(page))]
    return [block for block in found if "cases" in block]


def test_both_languages_show_the_same_cases():
    one, other = (blocks(page) for page in PAGES)
    assert one == other and len(one) == 2


@pytest.mark.parametrize("page", PAGES)
def test_the_cases_have_these_scores(page):
    for block in blocks(page):
        metric = Metric.model_validate(block["metric"])
        for case in block["cases"]:
            reference = {"role": "assistant", "content": block.get("reference", case["answer"])}
            asked = {"role": "user", "content": case.get("passage", "")}
            sample = Sample({"passages": block.get("passages")}, (asked, reference), "f:1")
            assert beside(case["answer"], sample, metric) == pytest.approx(case["scores"], abs=1e-6), case


@pytest.mark.parametrize("page", PAGES)
def test_every_key_is_in_the_table_with_its_default(page):
    rows = re.findall(r"(?m)^\| `(\w+)` \| `([^`]+)` \|", text_of(page))
    told = {name: yaml.safe_load(default) for name, default in rows}
    fields = {name: field.default for name, field in Grounded.model_fields.items()}
    assert told == {name: list(its) if isinstance(its, tuple) else its for name, its in fields.items()}


@pytest.mark.parametrize("page", PAGES)
def test_the_table_of_tasks_is_what_templates_turn_on(page):
    rows = [row for row in text_of(page).splitlines() if re.match(r"\| `\w+/\w+`", row)]
    told = {task: row for row in rows for task in re.findall(r"`(\w+/\w+)`", row.split("|")[1])}
    assert told.keys() == TEMPLATES.keys()
    for task, row in told.items():
        names = {name for metric in load_template(TEMPLATES[task]).metrics.values() for name in metric.beside}
        assert names - {"no_number_made_up"} == set(re.findall(r"`(\w+)`", row.split("|")[2])) & names, task
        assert "numbers_supported" in names


@pytest.mark.parametrize("name", ["mining/law_questions", "power/switching_order", "manufacturing/equipment_calls"])
def test_the_scores_of_unanswerable_rows_are_known_to_the_gate(name):
    row = next(row for row in text_of(PAGES[0]).splitlines() if row.startswith(f"| `{name}`"))
    score = re.findall(r"`([^`]+)`", row.split("|")[4])[0]
    known = known_scores(load_data(load_recipe(ROOT / f"recipes/{name}.yaml")))
    assert {score, "numbers_supported", "no_number_made_up"} <= set(known)


@pytest.mark.parametrize("page", PAGES)
def test_the_measured_table_is_what_is_measured(page):
    """Two of its rows, measured again; the rest by the same function (tests/evaluate/test_support.py)."""
    from tests.evaluate.test_support import ALL_STEPS, rate

    rows = re.findall(r"(?m)^\| (\d+) \| (\d) \| ([\d.]+) \| ([\d.]+) \|", text_of(page))
    assert len(rows) == 6
    for count, digits, without, with_steps in (rows[0], rows[2]):
        assert float(without) == pytest.approx(rate(int(count), int(digits)), abs=6e-4)
        assert float(with_steps) == pytest.approx(rate(int(count), int(digits), steps=ALL_STEPS), abs=6e-4)
