"""A reference scored against itself is right in every score; whatever a model says, scores lie between 0 and 1."""

from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.metric import Metric
from finetune.evaluate.corpus import family_of
from finetune.evaluate.dates import date
from finetune.evaluate.jsonanswer import json_answer
from finetune.evaluate.metrics import METRICS
from finetune.evaluate.quantity import quantity

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, database=None)
LABELS = {"approve": ("通过",), "reject": ("拒绝", "不通过")}
NUMBERS = st.decimals(-(10**9), 10**9, places=3)
UNITS = st.sampled_from(["", " t", "吨", " %", "万元", " m³/h", " million USD", "亿美元", " °C", " 头", " kWh", "‰"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
CELL = st.text("ab 矿1.%-|", max_size=5)
ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=1, max_size=4)
)


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    head = "| " + " | ".join(f"c{index}" for index in range(len(rows[0]))) + " |"
    return "\n".join([head, "|" + "---|" * len(rows[0]), *lines])


def dates() -> st.SearchStrategy[str]:
    forms = (
        "%Y-%m-%d",
        "%Y年%m月%d日",
        "%d %B %Y",
        "%B %d, %Y",
        "%Y-%m-%dT%H:%M:%S",
        "%Y年%m月",
        "%Y/%m/%d %H:%M",
        "%H:%M",
    )
    moments = st.datetimes().filter(lambda moment: moment.year >= 1000)
    return st.builds(lambda moment, form: moment.strftime(form), moments, st.sampled_from(forms))


def scored(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """Without what a row counts for the corpus, which is no score of its own."""
    scores = METRICS[metric.name](answer, reference, metric)
    return {name: value for name, value in scores.items() if family_of(name) is None}


KINDS = {
    "quantity": (Metric(name="quantity"), st.builds(lambda number, unit: f"{number:,}{unit}", NUMBERS, UNITS)),
    "percent": (Metric(name="quantity", percent=True), st.builds(lambda number, unit: f"{number}{unit}", NUMBERS, UNITS)),
    "date": (Metric(name="date"), dates()),
    "label": (Metric(name="label", labels=LABELS, confidence=True), st.sampled_from(["approve", "通过", "reject", "不通过"])),
    "json": (Metric(name="json"), JSON.map(lambda value: json.dumps(value, ensure_ascii=False))),
    "set": (Metric(name="json", unordered=True), JSON.map(lambda value: f"```json\n{json.dumps(value, indent=1)}\n```")),
    "table": (Metric(name="table"), ROWS.map(markdown)),
    "unanswerable": (Metric(name="unanswerable", refusals=("no answer",)), st.sampled_from(["No answer.", "5 days", "第三条"])),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_reference_is_right(kind):
    metric, references = KINDS[kind]

    @SETTINGS
    @given(references)
    def right(reference: str) -> None:
        scores = scored(reference, reference, metric)
        assert scores and set(scores.values()) == {1.0}, (reference, scores)

    right()


@pytest.mark.parametrize("kind", KINDS)
def test_any_answer_has_scores(kind):
    metric, references = KINDS[kind]
    said = st.text(max_size=40) | st.text('0123456789,.-()%万亿年月日点:/ tkm$|\n`{}[]"\\^×', max_size=40)

    @SETTINGS
    @given(said, references)
    def between(answer: str, reference: str) -> None:
        scores = scored(answer, reference, metric)
        assert all(0.0 <= score <= 1.0 for score in scores.values())
        assert scores.keys() == scored(reference, reference, metric).keys()

    between()


DAY_FORMS = ("%Y-%m-%d", "%Y年%m月%d日", "%d %B %Y", "%b %d, %Y", "%Y/%m/%d")


@SETTINGS
@given(st.dates(min_value=datetime.date(1000, 1, 1)), st.sampled_from(DAY_FORMS), st.sampled_from(DAY_FORMS))
def test_a_day_is_the_same_in_every_form(day, one, other):
    assert date(f"It is {day.strftime(one)}.", day.strftime(other), Metric(name="date"))["date_right"] == 1.0


@SETTINGS
@given(st.lists(JSON, max_size=5), st.randoms())
def test_a_shuffled_list_is_the_same_set(values, random):
    shuffled = random.sample(values, len(values))
    assert (
        json_answer(json.dumps(shuffled), json.dumps(values), Metric(name="json", unordered=True))["all_fields"] == 1.0
    )


@SETTINGS
@given(
    st.integers(1, 99_999),
    st.sampled_from([("万元", 4), ("亿元", 8), (" thousand yuan", 3), ("百万元", 6), ("k CNY", 3)]),
)
def test_a_scale_is_a_power_of_ten(number, scale):
    name, power = scale
    scores = quantity(f"{number}{name}", f"{number * 10**power:,} 元", Metric(name="quantity"))
    assert scores == {"exact": 1.0, "within_tolerance": 1.0, "unit_right": 1.0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [" ", "9", "1 ", "(", "三", "| ", "[", "-", "下午", "`", "\n", "1,", "1:"])
def test_an_answer_that_repeats_itself_costs_little(kind, text):
    """20,000 characters of the same: no pattern may go back and forth over them (the suite's time would tell)."""
    metric, _ = KINDS[kind]
    reference = {"date": "2024-03-05", "label": "approve", "json": "[1]", "table": "a,b\n1,2"}.get(
        metric.name, "5 days"
    )
    scores = scored(text * (20_000 // len(text)), reference, metric)
    assert all(0.0 <= score <= 1.0 for score in scores.values())
