"""Whether the answer holds the right one, by hand."""

from __future__ import annotations

import pytest

from finetune.data.metric import Metric
from finetune.evaluate.contains import contains

METRIC = Metric(name="contains")


@pytest.mark.parametrize(
    ("answer", "reference", "found"),
    [
        ("The capital is Paris.", "Paris", 1),
        ("parisian", "Paris", 0),
        ("It is 12.", "12", 1),
        ("It is 112, or 1.12, or 12%.", "12", 0),
        ("二加五等于七。", "7\n七", 1),
        ("Seven!", "7\nseven", 1),
        ("十七", "七", 0),
        ("答案是 1,000 米", "1000", 1),
        ("", "Paris", 0),
        ("Paris, London or Rome", "Rome", 1),  # what else it says does not count
    ],
)
def test_a_wording_of_the_reference_in_the_answer(answer, reference, found):
    assert contains(answer, reference, METRIC) == {"contained": found}


def test_an_empty_reference_is_in_no_answer():
    assert contains("", "\n", METRIC) == contains("a", "", METRIC) == {"contained": 0}
