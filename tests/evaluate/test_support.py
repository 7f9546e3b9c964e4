"""Numbers of an answer against its passage: cases judged by hand, and how often numbers made up at random are taken."""

from __future__ import annotations

import random
import time

import pytest
import yaml

from finetune.data.metric import Grounded
from finetune.evaluate.figures import figures, readable
from finetune.evaluate.support import judge, numbers_supported
from tests.conftest import ROOT

CASES = yaml.safe_load((ROOT / "tests/evaluate/support_cases.yaml").read_text(encoding="utf-8"))
NONE = Grounded()
ALL_STEPS = ("sum", "difference", "product", "ratio", "percent_change", "mean", "total")


def made_up(answer: str, passage: str, **settings) -> list[str]:
    return [one.figure.text for one in judge(answer, passage, Grounded(**settings)) if not one.supported]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["answer"][:40])
def test_what_is_not_supported_is_what_a_person_marked(case):
    assert made_up(case["answer"], case["passage"], **case.get("grounded", {})) == case["unsupported"]


def test_there_are_enough_cases_of_both_kinds_in_both_languages():
    assert len(CASES) >= 50
    for chinese in (True, False):
        ours = [case for case in CASES if any("\u4e00" <= mark <= "\u9fff" for mark in case["answer"]) == chinese]
        assert min(sum(bool(case["unsupported"]) is wrong for case in ours) for wrong in (True, False)) >= 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1. Close 343\n(2) open 5\n3) -4\n① 7；② 8\n第二步：9", ["343", "5", "4", "7", "8", "9"]),
        ("CO2, CH4, E5981, COVID-19, const_100, #0, PM2.5, m3, 10^9/L", []),
        ("一般情况，十分重要，千万不要，一个，万一，统一", []),
        ("三人、第三条、百分之三、三十二、2.5万、两名", ["三", "三", "三", "三十二", "2.5万", "两"]),
        ("3,5,7 and 1,234 and 12, then", ["3", "5", "7", "1,234", "12"]),
        ('{"at_30d": 5, "x": [1, -2]}', ["5", "1", "2"]),
        ("2024-03-05T14:30, 3月5日下午2时, 5 March 2024", ["2024-03-05", "14:30", "3月5日", "下午2时", "5 March 2024"]),
        ("123456789012345678901", ["123456789012345678901"]),
    ],
)
def test_figures(text, said):
    """What counts as a figure that somebody claims."""
    assert [one.text for one in figures(readable(text), True)] == said


def test_scores_by_hand():
    """Two of three are supported; an answer without figures has 0 where the reference has some."""
    assert numbers_supported("4, 5 and 6 t", "4 t", "4 t, 5 t", NONE) == {
        "numbers_supported": 2 / 3,
        "no_number_made_up": 0.0,
    }
    assert numbers_supported("4 t", "4 t", "4 t, 5 t", NONE) == {"numbers_supported": 1.0, "no_number_made_up": 1.0}
    nothing = {"numbers_supported": 0.0, "no_number_made_up": 0.0}
    assert numbers_supported("", "4 t", "4 t", NONE) == numbers_supported("none", "4 t", "4 t", NONE) == nothing
    assert numbers_supported("not said", "not said", "4 t", NONE) == {"no_number_made_up": 1.0}
    assert numbers_supported("", "not said", "4 t", NONE) == {"no_number_made_up": 0.0}


def test_skipped_fields_are_not_looked_at():
    assert made_up("a: 7\nb: 8", "8", skip=("a",)) == []
    assert made_up('{"a": {"ha": 7, "pct": 8}}', "8", skip=("ha",)) == []
    skipped = Grounded(skip=("a",))
    assert numbers_supported("a: 7", "a: 1", "8", skipped) == {"no_number_made_up": 1.0}


def test_decimals_say_how_exactly_a_short_number_is_meant():
    """-8 as -8.0: of 15000 -> 13800; one of two results near it would be hit by 2 of 12 whole numbers."""
    passage = "forest: 15000 -> 13800 px"
    settings = {"steps": ("percent_change",), "within": "line"}
    assert made_up("-8", passage, **settings) == ["8"]
    assert made_up("-8", passage, **settings, decimals=1) == []


def test_a_passage_named_as_the_user_s_leaves_out_the_system_s():
    from finetune.data.rows import Sample
    from finetune.evaluate.support import passage_of

    turns = [("system", "over 20 %"), ("user", "12 %"), ("assistant", "ok")]
    sample = Sample({}, tuple({"role": role, "content": text} for role, text in turns), "f:1")
    assert passage_of(sample, Grounded()) == "over 20 %\n12 %"
    assert passage_of(sample, Grounded(passage="user")) == "12 %"


def spelt(number: int, how: int) -> str:
    return (str(number), f"{number:,}", str(number).translate(str.maketrans("0123456789", "０１２３４５６７８９")))[how]


def test_numbers_that_are_copied_are_always_supported():
    """500 passages of 1 to 30 numbers of up to seven digits and three decimals; each said again in another spelling."""
    draw = random.Random(7)
    for _ in range(500):
        numbers = [draw.randrange(10 ** draw.randint(1, 7)) for _ in range(draw.randint(1, 30))]
        decimals = [round(draw.uniform(-1000, 1000), draw.randint(1, 3)) for _ in range(3)]
        passage = " t; ".join([spelt(number, draw.randrange(3)) for number in numbers] + [str(one) for one in decimals])
        answer = " t\n".join([spelt(number, draw.randrange(3)) for number in numbers] + [str(one) for one in decimals])
        assert made_up(answer, passage) == []


def rate(count: int, digits: int, **settings) -> float:
    """Of 400 numbers of so many digits, made up, the share that passages of `count` 4-digit numbers support."""
    draw = random.Random(count * 10 + digits)
    taken = 0
    for _ in range(20):
        passage = "; ".join(f"{draw.randint(1000, 9999)} t" for _ in range(count))
        answer = "\n".join(f"{draw.randint(10 ** (digits - 1), 10**digits - 1)} t" for _ in range(20))
        taken += 20 - len(made_up(answer, passage, **settings))
    return taken / 400


@pytest.mark.parametrize("count", [5, 20, 80])
def test_a_number_made_up_is_hardly_ever_supported_without_steps(count):
    """By chance `count` in 9,000 four-digit numbers are in the passage; rounding adds none."""
    assert rate(count, 4) <= count / 9000 + 0.01
    assert rate(count, 3) == 0


@pytest.mark.parametrize("digits", [2, 3, 4, 5])
@pytest.mark.parametrize("count", [5, 20, 80])
def test_steps_keep_what_is_taken_by_chance_below_their_bound(count, digits):
    """All steps at once: without the bound nearly every number of 80 numbers' 22,000 results would be taken."""
    assert rate(count, digits, steps=ALL_STEPS) <= 0.06


def test_steps_find_what_is_derived():
    """Differences of five numbers of five digits, of which all are long enough to be no chance."""
    draw = random.Random(3)
    for _ in range(50):
        numbers = [draw.randint(10000, 99999) for _ in range(5)]
        passage = "; ".join(f"{number} t" for number in numbers)
        wanted = [a - b for a in numbers for b in numbers if a - b > 1000]
        assert made_up("\n".join(f"{one} t" for one in wanted), passage, steps=("difference",)) == []


@pytest.mark.parametrize("text", ["1 = 1, ", "4711 ", "7 + ", "((", "3.5.", "9,", "十", '{"a": 1', "1 + 1 = 2; "])
def test_an_answer_that_repeats_itself_costs_little(text):
    """2,000 pieces against a passage of 200 numbers: seconds would be a hang over many rows."""
    passage = "; ".join(f"{number} t" for number in range(1000, 1200))
    start = time.process_time()
    judge(text * 2000, passage, Grounded(steps=ALL_STEPS))
    assert time.process_time() - start < 10
