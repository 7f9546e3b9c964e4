"""Deadlines against numpy's busday_offset on the calendar that the prompt tells; work orders read a second time."""

from __future__ import annotations

import datetime
import re
from functools import partial

import numpy as np
import pytest

from scripts.make.government.workdays import HOLIDAYS, ONE_DAY, days_after, is_off
from scripts.make.law import read_laws
from tests.conftest import ROOT
from tests.packs.reading import shipped

rows = partial(shipped, "government")

Day = datetime.date


def days_told(notice: str, start: Day) -> tuple[set[Day], set[Day]]:
    """Days off and days worked that a notice names, each the first one of that date near the start."""

    def near(text: str) -> Day:
        day = Day.fromisoformat(f"{start.year}-{text}")
        return day if (start - day).days < 180 else Day.fromisoformat(f"{start.year + 1}-{text}")

    off_text, worked_text = re.fullmatch("放假：(.*)；调休上班：(.*)", notice).groups()
    off: set[Day] = set()
    for span in re.findall(r"(\d\d-\d\d)(?:至(\d\d-\d\d))?", off_text):
        first, last = near(span[0]), near(span[1] or span[0])
        off |= {first + ONE_DAY * n for n in range((last - first).days + 1)}
    return off, {near(text) for text in re.findall(r"\d\d-\d\d", worked_text)}


def deadline(start: Day, count: int, notice: str) -> Day:
    """By numpy, every day of the week being one to work but those listed. The start is worked, whatever day it is."""
    off, worked = days_told(notice, start)
    ahead = [start + ONE_DAY * n for n in range(1, 60)]
    idle = [day for day in ahead if (day.weekday() >= 5 or day in off) and day not in worked]
    return np.busday_offset(start, count, weekmask="1111111", holidays=np.array(idle, dtype="datetime64[D]")).item()


def test_every_deadline_is_numpys_on_the_calendar_told():
    for row in rows("permit_deadline"):
        start = Day.fromisoformat(row["received"])
        assert f"{row['received']}（周{'一二三四五六日'[start.weekday()]}）" in row["question"]
        assert re.search(rf"\D{row['working_days']}个工作日", row["question"])
        assert deadline(start, row["working_days"], row["notice"]).isoformat() == row["deadline"], row


def test_every_day_is_counted():
    """The days follow each other from the day after receipt to the deadline; their numbers run from 1 to the count."""
    for row in rows("permit_deadline"):
        start, end = Day.fromisoformat(row["received"]), Day.fromisoformat(row["deadline"])
        told = re.findall(r"(\d+)([一二三四五六日])(休|\d+)(?: |$)", row["counted"])
        days = [start + ONE_DAY * n for n in range(1, (end - start).days + 1)]
        assert [(int(day), "一二三四五六日".index(week)) for day, week, _ in told] == [
            (d.day, d.weekday()) for d in days
        ]
        numbers = [int(mark) for *_, mark in told if mark != "休"]
        assert numbers == list(range(1, row["working_days"] + 1)) and told[-1][2] != "休"


def test_the_calendar_has_the_days_off_that_the_notices_count():
    """2025: 28 days off by the notice in 6 blocks, 5 worked in their stead; 2026: 33 in 7, 6 worked.

    1 + 8 + 3 + 5 + 3 + 8 = 28, and 3 + 9 + 3 + 5 + 3 + 3 + 7 = 33. Every day worked is of a weekend.
    """
    for year, off, worked in (("2025", 28, 5), ("2026", 33, 6)):
        blocks = [block for block in HOLIDAYS if block[0].startswith(year)]
        spans = [(Day.fromisoformat(last) - Day.fromisoformat(first)).days + 1 for first, last, _ in blocks]
        stead = [Day.fromisoformat(day) for *_, days in blocks for day in days]
        assert (sum(spans), len(stead)) == (off, worked) and all(day.weekday() >= 5 for day in stead)


def test_deadlines_by_hand():
    """From Friday 25 April 2025: Sat off, Sun worked 1, Mon to Wed 2 to 4, holiday 1 to 5 May, Tue 5, Wed 6."""
    assert days_after(Day(2025, 4, 25), 6)[-1] == Day(2025, 5, 7)
    assert days_after(Day(2026, 2, 13), 2)[-1] == Day(2026, 2, 24)  # Sat 14 worked, 15 to 23 off
    assert not is_off(Day(2026, 2, 28)) and is_off(Day(2026, 3, 1))


def test_the_law_counts_periods_in_working_days():
    """Article 82 of the Administrative Licensing Law, where the official text lies beside the project."""
    folder = ROOT.parent / "shared/data/gov/laws"
    if not folder.is_dir():
        pytest.skip(f"no laws in {folder}")
    [article] = [found for found in read_laws(folder) if found["id"] == "行政许可法第八十二条"]
    assert "以工作日计算，不含法定节假日" in article["text"]


CATEGORIES = {  # words of the complaint; the first category that has one
    "燃气": "煤气|燃气|停气",
    "供电": "停电|电线|电表|配电箱|电压|跳闸|充电桩",
    "供水排水": "水管|自来水|下水道|水压|污水井盖|停水|水费",
    "劳动保障": "工资|欠薪|社保|辞退|退休金",
    "消费维权": "超市|健身房|配餐|网购|缺斤|预付卡|餐具费",
    "物业管理": "电梯|物业|消防通道|门禁|保安",
    "交通出行": "公交|出租车|网约车|客运|轮渡",
    "道路设施": "路面塌陷|路灯|地砖|护栏|桥面|围挡|减速带",
    "市容环卫": "垃圾|摊贩|厕所|广告",
    "生态环境": "打桩|油烟|黄烟|死鱼|偷排|黑烟|音响",
}
DANGER = "差点掉|断落|孩子伸手|煤气味|挖断|砸到|翻进去|晃动|超载|呕吐|困住|堵死|头晕"
MANY = "整条街|停水两天|整个小区|停电五次|停气三天|没路可走|上百人|五十多名|停运四天|死鱼|偷排"
DEPARTMENTS = {
    "供水排水": "水务局", "供电": "供电公司", "燃气": "燃气集团", "市容环卫": "城市管理局", "道路设施": "住房和城乡建设局",
    "交通出行": "交通运输局", "劳动保障": "人力资源和社会保障局", "消费维权": "市场监督管理局", "物业管理": "住房保障中心",
    "生态环境": "生态环境局",
}  # fmt: skip


def test_every_work_order_is_what_a_second_reader_makes_of_the_call():
    for row in rows("hotline_dispatch"):
        told = row["call"].replace(row["location"], "")
        category = next(name for name, words in CATEGORIES.items() if re.search(words, told))
        urgency = "特急" if re.search(DANGER, told) else "紧急" if re.search(MANY, told) else "一般"
        assert (row["category"], row["department"], row["urgency"]) == (category, DEPARTMENTS[category], urgency), row
        assert re.fullmatch(r".{2,4}[路道街巷]\d+号.+", row["location"]) and row["location"] in row["call"]
        start = Day.fromisoformat(row["received"][:10])
        due = {"特急": start, "紧急": start + ONE_DAY, "一般": deadline(start, 5, row["notice"])}[urgency]
        assert (row["due"], row["limit"]) == (
            due.isoformat(),
            {"特急": "当日", "紧急": "次日", "一般": "5个工作日"}[urgency],
        )
