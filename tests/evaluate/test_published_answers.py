"""References as they were published, where the data lies beside the project: all are read, each is right by itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from finetune.data.metric import Metric
from finetune.evaluate.metrics import check_metric, reference_problem
from finetune.evaluate.quantity import quantity

DATA = next((its for its in (up / "shared/data" for up in Path(__file__).resolve().parents[2:5]) if its.is_dir()), None)
pytestmark = pytest.mark.skipif(DATA is None, reason="the published data (../shared/data) is not here")


def unread(references, metric: Metric) -> list[str]:
    return [text for text in references if reference_problem(text, metric)]


def test_chinese_amounts():
    """42 results of fineval_rigor: 1.0126万元, 188.52克, 0.3333枚比特币, 3.65%."""
    with (DATA / "finance/fineval_rigor/numerical_calculation.csv").open(encoding="utf-8-sig") as file:
        answers = [row["标准答案"] for row in csv.DictReader(file)]
    assert len(answers) == 42 and unread(answers, Metric(name="quantity")) == []
    assert quantity("10,126 元", answers[16], Metric(name="quantity")) == {
        "exact": 1,
        "within_tolerance": 1,
        "unit_right": 1,
    }


def test_amounts_with_a_scale():
    tables = json.loads((DATA / "finance/tatqa/tatqa_dataset_dev.json").read_text(encoding="utf-8"))
    asked = [its for table in tables for its in table["questions"] if its["answer_type"] in ("arithmetic", "count")]
    answers = [f"{its['answer']} {its['scale']}".strip() for its in asked]
    assert len(answers) == 750 and unread(answers, Metric(name="quantity")) == []


def test_percent_answers_agree_with_what_their_programs_compute():
    """Of 285 numeric rows of FinQA the text agrees within a hundredth in 234; the rest is rounded, mis-scaled or wrong."""
    agree = []
    for name in ("dev_200", "train_100"):
        for row in json.loads((DATA / f"finance/finqa_dev200_train100/{name}.json").read_text(encoding="utf-8")):
            answer, computed = row["qa"]["answer"], row["qa"]["exe_ans"]
            if answer and not isinstance(computed, str):
                metric = Metric(name="quantity", percent=True, tolerance=0.01)
                agree.append(quantity(answer, f"{computed:.5f}", metric)["within_tolerance"])
    assert (len(agree), sum(agree)) == (285, 234)


def test_relation_classes():
    """13 classes, some of them words of others: SUBSTRATE and SUBSTRATE_PRODUCT-OF."""
    lines = [
        line for name in ("dev", "train") for line in (DATA / f"pharma/chemprot/{name}.txt").read_text().splitlines()
    ]
    classes = [json.loads(line)["label"] for line in lines]
    metric = Metric(name="label", labels=dict.fromkeys(classes, ()))
    check_metric(metric)
    assert len(metric.labels) == 13 and unread(metric.labels, metric) == []


def test_days_of_laws():
    """37 laws with the day of their last amendment in the file's name."""
    names = [file.stem for file in DATA.glob("*/laws/*.md") if "(" in file.stem]
    assert len(names) >= 30 and unread(names, Metric(name="date")) == []
