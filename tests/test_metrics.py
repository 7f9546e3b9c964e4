"""Scores worked out by hand."""

from __future__ import annotations

import pytest

from finetune.data.template import Metric
from finetune.errors import GateError, RecipeError
from finetune.evaluate.gate import check_gate, judge, pass_gate
from finetune.evaluate.metrics import fields, number, score
from finetune.evaluate.results import Evaluated
from finetune.recipe_evaluate import GateSection

FIELDS = Metric(name="fields", separator=" ")


def test_fields_by_hand():
    """Three fields; `speed` wrong, `vis` missing: 1/3 match."""
    got = fields("dir 350\nspeed 8", "dir 350\nspeed 7\nvis 10", FIELDS)
    assert got == {
        "field_match": pytest.approx(1 / 3), "all_fields": 0.0, "field/dir": 1.0, "field/speed": 0.0, "field/vis": 0.0,
    }  # fmt: skip


def test_a_field_given_twice_is_wrong_and_a_further_line_is_not_all_right():
    assert fields("dir 350\ndir 360", "dir 350", FIELDS)["field_match"] == 0.0
    more = fields("dir 350\nnote x", "dir 350", FIELDS)
    assert (more["field_match"], more["all_fields"]) == (1.0, 0.0)
    assert fields("\n dir  350 \n", "dir 350", FIELDS)["all_fields"] == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "near"),
    [
        ("5%: 3; 4\nNPV: 1,234.50", "5%: 3; 4\nNPV: 1234.50", 1, 1),
        ("NPV: 1234.5 USD", "NPV: 1234.50", 1, 1),
        ("NPV: 1234.504", "NPV: 1234.50", 1, 1),
        ("NPV: 1234.60", "NPV: 1234.50", 0, 1),
        ("NPV: 1300", "NPV: 1234.50", 0, 0),
        ("5%: 3; 1234.50", "NPV: 1234.50", 0, 0),
        ("NPV: 1234.50\nNPV: 7", "NPV: 1234.50", 0, 0),
        ("净现值: −12.3", "净现值: -12.3", 1, 1),
        ("NPV: none", "NPV: 1.0", 0, 0),
        ("NPV: " + "1" * 40, "NPV: 1.0", 0, 0),
        ("so it is 8", "8", 1, 1),
        ("7 then 8", "7", 0, 0),
        ("", "7", 0, 0),
    ],
)
def test_number_by_hand(answer, reference, exact, near):
    """Tolerance 0.005 of 1234.50 is 6.17. A result line that is missing is wrong, whatever the working says."""
    got = number(answer, reference, Metric(name="number", tolerance=0.005))
    assert got == {"exact": exact, "within_tolerance": near}


def test_score_is_the_mean_over_the_rows_that_have_it():
    assert score(["a 1", "a 2\nb 1"], ["a 1", "a 1\nb 1"], FIELDS) == {
        "field_match": 0.75, "all_fields": 0.5, "field/a": 0.5, "field/b": 1.0,
    }  # fmt: skip


def test_gate():
    section = GateSection(min={"all_fields": 0.6})
    base = {"field_match": 0.1, "all_fields": 0.0}

    def gate(section: GateSection, tuned: dict[str, float]) -> None:
        pass_gate(judge(section, Evaluated({"base": base, "tuned": tuned})))

    gate(section, {"field_match": 0.9, "all_fields": 0.6})
    with pytest.raises(GateError, match=r"gate.min.all_fields: 0.5900 is below 0.6000 \(base 0.0000\)"):
        gate(section, {"field_match": 0.9, "all_fields": 0.59})
    with pytest.raises(GateError, match="better_than_base"):
        gate(GateSection(), base)
    with pytest.raises(RecipeError, match="did you mean 'all_fields'"):
        check_gate(GateSection(min={"all_feilds": 0.6}), base)
