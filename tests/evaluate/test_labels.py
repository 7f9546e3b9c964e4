"""Labels, synonyms and confidence worked out by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune.data.metric import Metric
from finetune.errors import DataError
from finetune.evaluate.corpus import family_of
from finetune.evaluate.labels import class_of, confidence_of, label
from finetune.evaluate.metrics import check_metric, score

METRIC = Metric(
    name="label", labels={"approve": ("approved", "通过"), "reject": ("拒绝",), "pass": ("合格",), "fail": ("不合格",)}
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("approve", "approve"), (" Approved. ", "approve"), ("ＡＰＰＲＯＶＥ", "approve"), ("结论：通过。", "approve"),
        ("We approve it; approved.", "approve"), ("approve or reject", None), ("disapprove", None), ("不合格", "fail"),
        ("产品不合格！", "fail"), ("合格", "pass"), ("合格，不合格", None), ("", None), ("maybe", None), ("拒 绝", "reject"),
    ],
)  # fmt: skip
def test_named(text, named):
    assert class_of(text, METRIC) == named


@pytest.mark.parametrize(("text", "named"), [("Approved!", "approve"), ("it is approved", None), ("", None)])
def test_nothing_but_the_label(text, named):
    assert class_of(text, METRIC.model_copy(update={"whole": True})) == named


def scored(answer, reference, metric):
    """Without what a row counts for the corpus."""
    return {name: value for name, value in label(answer, reference, metric).items() if family_of(name) is None}


def test_what_a_corpus_comes_to():
    """approve: P 1, R 1/3, F1 1/2; reject: P 1/2, R 1, F1 2/3; in all 2 right, 1 wrong, 2 missed (one is no class)."""
    scores = score(["approve", "reject", "?", "reject"], ["approve", "approve", "approve", "reject"], METRIC)
    assert (scores["label_right"], scores["label_micro_f1"]) == (1 / 2, pytest.approx(4 / 7))
    assert (scores["label_f1/approve"], scores["label_f1/reject"]) == (1 / 2, pytest.approx(2 / 3))
    assert scores["label_macro_f1"] == pytest.approx(7 / 12)


def test_scores_by_hand():
    assert scored("approved", "approve", METRIC) == {"label_right": 1, "one_label": 1, "label/approve": 1}
    assert scored("reject", "approve", METRIC) == {"label_right": 0, "one_label": 1, "label/approve": 0}
    assert scored("approve, or reject", "approve", METRIC) == {"label_right": 0, "one_label": 0, "label/approve": 0}


@pytest.mark.parametrize(
    ("text", "p"),
    [
        ("approve (0.8)", 0.8), ("通过（80%）", 0.8), ("approve, confidence: 0.75", 0.75), ("通过，置信度：９５％。", 0.95),
        ("approve [1]", 1.0), ("approve", None), ("approve (80)", None), ("approve 0.8", None), ("p=0.5", 0.5),
        (" " * 5000, None),
    ],
)  # fmt: skip
def test_confidence(text, p):
    assert confidence_of(text) == p


@pytest.mark.parametrize(
    ("answer", "right", "brier"),
    [
        ("approve (0.8)", 1, 0.96), ("reject (0.8)", 0, 0.36), ("approve", 1, 1.0), ("reject", 0, 0.0), ("maybe (0.1)", 0, 0.0),
        ("approve or reject (0.5)", 0, 0.0),
    ],
)  # fmt: skip
def test_brier_by_hand(answer, right, brier):
    """1 - (0.8 - 1)^2 = 0.96; 1 - (0.8 - 0)^2 = 0.36; no label is as bad as a wrong one held for certain."""
    scores = label(answer, "approve", METRIC.model_copy(update={"confidence": True}))
    assert (scores["label_right"], scores["brier"]) == (right, pytest.approx(brier))


def test_settings():
    assert Metric.model_validate({"name": "label", "labels": ["a", "b"]}).labels == {"a": (), "b": ()}
    assert Metric.model_validate({"name": "label", "labels": {"a": "x", "b": ["y"]}}).labels == {
        "a": ("x",),
        "b": ("y",),
    }
    for wrong, said in (
        ({"name": "label"}, "metric label needs `labels`"),
        ({"name": "fields", "labels": ["a"]}, "`labels` is for metric label, this is fields"),
        ({"name": "label", "labels": ["a", "a"]}, "'a' is given twice"),
        ({"name": "label", "labels": ["a", "。"]}, "`labels` holds a text without a word"),
        ({"name": "label", "labels": ["a", True]}, "True is not text; put it in quotes"),
    ):
        with pytest.raises(ValidationError, match=said):
            Metric.model_validate(wrong)
    with pytest.raises(DataError, match=r"metric\.labels: 'Yes' names both 'yes' and 'no'"):
        check_metric(Metric(name="label", labels={"yes": (), "no": ("Yes",)}))
