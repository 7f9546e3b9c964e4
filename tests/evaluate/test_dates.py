"""Dates and times worked out by hand."""

from __future__ import annotations

import pytest

from finetune.data.metric import Metric
from finetune.evaluate.dates import Moment, date, read_moment

METRIC = Metric(name="date")
FIFTH = Moment(2024, 3, 5)


@pytest.mark.parametrize(
    "text",
    [
        "2024年3月5日", "2024 年 03 月 05 日", "二〇二四年三月五日", "２０２４年３月５号", "5 March 2024", "5th of March, 2024",
        "March 5, 2024", "Mar. 5 2024", "05-Mar-2024", "2024-03-05", "2024/3/5", "2024.03.05", "It is due on 2024-03-05.",
        "from 1 March 2024 to 5 March 2024",
    ],
)  # fmt: skip
def test_the_same_day(text):
    assert read_moment(text) == FIFTH


@pytest.mark.parametrize(
    ("text", "order", "moment"),
    [
        ("03/05/2024", None, Moment()), ("03/05/2024", "month_first", FIFTH), ("05/03/2024", "day_first", FIFTH),
        ("25/03/2024", None, Moment(2024, 3, 25)), ("25/03/2024", "month_first", Moment()),
        ("05.05.2024", None, Moment(2024, 5, 5)),
        ("2024-02-30", None, Moment()), ("29 February", None, Moment(None, 2, 29)), ("3月5日", None, Moment(None, 3, 5)),
        ("2024年3月", None, Moment(2024, 3)), ("March 2024", None, Moment(2024, 3)), ("2024-03", None, Moment(2024, 3)),
        ("2024年", None, Moment(2024)), ("2024", None, Moment(2024)), ("05/03/24", "day_first", Moment()),
        ("32 March 2024", None, Moment()), ("at 12 t and 2024 t", None, Moment()), ("", None, Moment()),
    ],
)  # fmt: skip
def test_parts_and_doubts(text, order, moment):
    """A day is either first or second; two digits of a year leave the century open."""
    assert read_moment(text, order) == moment


@pytest.mark.parametrize(
    ("text", "time", "zone"),
    [
        ("14:30", (14, 30, 0), None), ("2:30 pm", (14, 30, 0), None), ("2 p.m.", (14, 0, 0), None), ("12 am", (0, 0, 0), None),
        ("下午2点30分", (14, 30, 0), None), ("下午两点半", (14, 30, 0), None), ("14时30分15秒", (14, 30, 15), None),
        ("九点三刻", (9, 45, 0), None), ("凌晨12点", (0, 0, 0), None), ("中午12点", (12, 0, 0), None),
        ("2024-03-05T14:30:15Z", (14, 30, 15), 0), ("14:30 +08:00", (14, 30, 0), 480), ("14:30-0330", (14, 30, 0), -210),
        ("25:00", None, None), ("13 pm", None, None), ("共3小时", None, None), ("3时间", None, None),
    ],
)  # fmt: skip
def test_times(text, time, zone):
    moment = read_moment(text)
    assert (moment.time, moment.zone) == (time, zone)


def test_scores_by_hand():
    assert date("6 March 2024", "2024年3月5日", METRIC) == {
        "date_right": 0,
        "year_right": 1,
        "month_right": 1,
        "day_right": 0,
    }
    assert date("2024-03-05 at 2:30 pm", "2024年3月5日14时30分", METRIC) == {
        "date_right": 1, "year_right": 1, "month_right": 1, "day_right": 1, "time_right": 1,
    }  # fmt: skip
    assert date("2024-03-05", "2024-03", METRIC) == {"date_right": 1, "year_right": 1, "month_right": 1}
    assert date("I don't know", "2024-03-05", METRIC)["date_right"] == 0
    assert date("signed: 2024-03-01\ndue: 2024-03-05", "due: 2024-03-05", METRIC)["date_right"] == 1
    assert date("due: 2024-03-05\nsigned: 2024-03-01", "due: 2024-03-05", METRIC)["date_right"] == 1
    assert date("none", "nothing at all", METRIC) == {"date_right": 0}


def test_the_same_instant_at_another_offset():
    """22:30 of the 5th at +08:00 is 14:30 UTC; 01:30 of the 6th at +08:00 is 17:30 UTC of the 5th."""
    assert date("2024-03-05 22:30 +08:00", "2024-03-05T14:30Z", METRIC)["date_right"] == 1
    assert date("2024-03-06 01:30+08:00", "2024-03-05T17:30Z", METRIC)["date_right"] == 1
    assert date("2024-03-05 14:30", "2024-03-05T14:30Z", METRIC) == {
        "date_right": 0, "year_right": 1, "month_right": 1, "day_right": 1, "time_right": 0,
    }  # fmt: skip
    assert date("9999-12-31 23:30Z", "2024-03-05 22:30 +08:00", METRIC)["date_right"] == 0
