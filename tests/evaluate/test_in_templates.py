"""The metrics where they are used: in a template's file, before a run, and in the golden samples of a bundle."""

from __future__ import annotations

import json

import pytest
import yaml

from finetune.data.metric import Metric
from finetune.data.rows import Sample
from finetune.data.template import load_template
from finetune.errors import DataError
from finetune.evaluate.metrics import score_names
from finetune.inputs import load_data
from finetune.verify.golden import make_golden, read_golden, write_golden
from tests.verify.conftest import Said

SCHEMA = {"type": "object", "properties": {"t": {"type": "number"}}, "required": ["t"]}
METRICS_IN_USE = [
    {"name": "quantity", "percent": True, "tolerance": 0.01},
    {"name": "date", "date_order": "month_first"},
    {"name": "label", "labels": {"no": [], "yes": ["通过"]}, "whole": True, "confidence": True},
    {"name": "json", "schema": SCHEMA, "unordered": True, "normalise": ["width", "case"]},
    {"name": "table", "keys": ["mine", "year"]},
    {"name": "unanswerable", "refusals": ["no idea"], "normalise": ["space", "punctuation"]},
    {
        "name": "exact_match",
        "grounded": {"passage": "user", "steps": ["sum", "total"], "known": [0, 1.5], "skip": ["a"]},
    },
    {"name": "citations", "refusals": ["no idea"], "passages": "said"},
]


def template(folder, metric: dict, answer: str = "{{ said }}"):
    content = {
        "name": "one",
        "description": "One answer.",
        "columns": {"said": {"type": "str"}, "group": {"type": "int", "null": "keep"}},
        "messages": [{"role": "user", "content": "Say {{ group }}."}, {"role": "assistant", "content": answer}],
        "metric": metric,
        "examples": [{"row": {"said": "5 t", "group": 1}, "answer": "5 t"}],
    }
    file = folder / "one.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return file


@pytest.mark.parametrize("metric", METRICS_IN_USE, ids=lambda metric: metric["name"])
def test_settings_survive_the_template_and_the_golden_file(metric, tmp_path):
    read = load_template(template(tmp_path, metric)).metric
    assert read == Metric.model_validate(metric)
    sample = Sample({}, ({"role": "user", "content": "q"}, {"role": "assistant", "content": "no idea"}), "f:1", (), "")
    goldens = make_golden([sample], [[1]], [Said("no idea", True, (2,))], {"": read})
    write_golden(tmp_path / "golden.jsonl", goldens)
    assert read_golden(tmp_path / "golden.jsonl") == goldens


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ({"name": "json", "shema": {}}, "metric.shema: unknown key; did you mean 'schema'?"),
        ({"name": "json", "schema": "a.json"}, "metric.schema: give the JSON Schema itself, not a file's name"),
        ({"name": "quantity", "labels": ["a"]}, "metric: `labels` is for metric label, this is quantity"),
        ({"name": "exact_match", "normalise": ["cases"]}, "metric.normalise.0: input should be 'width', 'case'"),
        ({"name": "date", "date_order": "ymd"}, "metric.date_order: input should be 'day_first' or 'month_first'"),
        ({"name": "label", "labels": {}}, "metric: metric label needs `labels`"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(metric, said, tmp_path):
    with pytest.raises(DataError) as caught:
        load_template(template(tmp_path, metric))
    assert any(said in problem and problem.startswith(f"{tmp_path}/one.yaml:") for problem in caught.value.problems)


def rows(folder, answers):
    file = folder / "rows.jsonl"
    file.write_text(
        "".join(json.dumps({"said": text, "group": i}) + "\n" for i, text in enumerate(answers)), encoding="utf-8"
    )
    return file


def test_a_reference_that_cannot_be_read_stops_before_training(tiny_recipe, tmp_path):
    """Of 30 rows every third is text; all that are held out and can't be read are told, the first ten by their rows."""
    file = template(tmp_path, {"name": "quantity"})
    places = (f"data.template={file}", "data.split.by=group", "data.split.eval_rows=8", "gate.min={}")
    good = rows(tmp_path, [f"{i} t" for i in range(30)])
    assert len(load_data(tiny_recipe(*places, f"data.train={good}")).evaluate) == 8
    bad = rows(tmp_path, [f"nothing {'x' * i}" if i % 3 == 0 else f"{i} t" for i in range(30)])
    with pytest.raises(DataError) as caught:
        load_data(tiny_recipe(*places, f"data.train={bad}"))
    assert all("rows.jsonl:" in problem for problem in caught.value.problems)
    assert "metric quantity gives the reference 'nothing" in caught.value.problems[0]
    assert caught.value.problems[0].endswith("itself no 1 as exact, within_tolerance")


def test_score_names():
    """What `gate.min` may name comes from worked examples."""
    metric = Metric(name="label", labels={"yes": (), "no": ()}, confidence=True)
    assert score_names("yes", metric) == [
        "label_right", "one_label", "label/yes", "brier",
        "label_micro_f1", "label_macro_f1", "label_precision", "label_recall", "label_f1/yes",
    ]  # fmt: skip
    assert score_names("5 t", Metric(name="quantity")) == ["exact", "within_tolerance", "unit_right"]
    assert score_names("2024-03", Metric(name="date")) == ["date_right", "year_right", "month_right"]
