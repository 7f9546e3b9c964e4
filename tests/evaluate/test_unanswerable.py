"""Refusals and answers worked out by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune.data.metric import Metric
from finetune.evaluate.unanswerable import unanswerable

METRIC = Metric(name="unanswerable", refusals=("not in the passage", "文中没有提到"))


@pytest.mark.parametrize(
    ("answer", "answered", "right"),
    [
        ("5 days", 1, 1),
        ("Within ５ DAYS.", 1, 1),
        ("15 days", 1, 0),
        ("Not in the passage.", 0, 0),
        ("", 0, 0),
        ("?!", 0, 0),
    ],
)
def test_a_question_with_an_answer(answer, answered, right):
    assert unanswerable(answer, "5 days", METRIC) == {"all_right": right, "answered": answered, "answered_right": right}


@pytest.mark.parametrize(
    ("answer", "right"), [("文中没有提到", 1), ("The answer is not in the passage!", 1), ("5 days", 0), ("", 0)]
)
def test_a_question_without_one(answer, right):
    assert unanswerable(answer, "Not in the passage.", METRIC) == {"all_right": right, "refused_right": right}


def test_refusals_are_needed():
    with pytest.raises(ValidationError, match="metric unanswerable needs `refusals`"):
        Metric(name="unanswerable")
