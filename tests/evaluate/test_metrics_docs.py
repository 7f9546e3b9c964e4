"""docs/metrics.md stays true: its cases have the scores that it says, its table has every setting."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from finetune.data.metric import OWNERS, Metric
from finetune.evaluate.corpus import family_of
from finetune.evaluate.metrics import METRICS, check_metric
from finetune.evaluate.normalise import no_simplifier
from finetune.evaluate.units import no_converter
from finetune.yamlfile import read_yaml
from tests.conftest import ROOT

PAGES = ["docs/metrics.md", "docs/metrics.zh-CN.md"]
HERE = {
    "quantity",
    "date",
    "label",
    "json",
    "table",
    "unanswerable",
    "refusal",
    "contains",
}  # the others: docs/data_template.md


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    return re.findall(r"(?ms)^```yaml\n(.*?)^```$", text_of(page))


@pytest.mark.parametrize("page", PAGES)
def test_the_cases_have_these_scores(page, tmp_path):
    """Read as a template is; a block whose library is missing is left out."""
    shown = set()
    for index, block in enumerate(blocks(page)):
        file = tmp_path / f"{index}.yaml"
        file.write_text(block, encoding="utf-8")
        content: dict[str, Any] = read_yaml(file)[0]
        metric = Metric.model_validate(content["metric"])
        shown.add(metric.name)
        if (metric.convert and no_converter()) or ("traditional" in metric.normalise and no_simplifier()):
            continue
        check_metric(metric)
        for case in content["cases"]:
            answer, reference = (str(case[key]) for key in ("answer", "reference"))
            scores = METRICS[metric.name](answer, reference, metric)
            scores = {name: value for name, value in scores.items() if family_of(name) is None}
            assert scores == pytest.approx(case["scores"], abs=1e-6), case
            for name in scores:
                assert f"`{name.partition('/')[0]}" in text_of(page)
    assert shown == HERE | {"exact_match"}


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_is_in_the_table(page):
    rows = [row.strip("|").split("|") for row in text_of(page).splitlines() if row.startswith("| `")]
    fields = {name.removeprefix("json_"): field for name, field in Metric.model_fields.items() if name != "name"}
    named = [re.findall(r"`([^`]+)`", row[0])[0] for row in rows]
    others = {name for name, owners in OWNERS.items() if not HERE & set(owners)}
    assert {*fields} - others <= {*named} <= {*fields}
    for row, name in zip(rows, named, strict=True):
        default = yaml.safe_load(re.findall(r"`(.*)`", row[1])[0])
        wanted = fields[name].default
        assert default == (list(wanted) if isinstance(wanted, tuple) else wanted), name
        owners = OWNERS.get(name, OWNERS.get(f"json_{name}"))
        assert owners is None or set(re.findall(r"`([^`]+)`", row[2])) == set(owners), name


@pytest.mark.parametrize("page", PAGES)
def test_every_metric_has_its_place(page):
    sections = set(re.findall(r"(?m)^## `(\w+)`$", text_of(page)))
    assert sections == HERE
    assert all(f"`{name}`" in text_of(page) for name in METRICS)


def test_both_languages_show_the_same_cases():
    one, other = (blocks(page) for page in PAGES)
    assert one == other and len(one) >= 12
