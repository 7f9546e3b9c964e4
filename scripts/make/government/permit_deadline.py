"""Deadlines in working days over China's public holidays, in Chinese; every day counted in the answer.

The day of receipt does not count (Civil Code, article 201); working days leave out statutory holidays (Administrative
Licensing Law, article 82).
"""

from __future__ import annotations

import random

from scripts.make.cases import Row, distinct
from scripts.make.government.workdays import (
    FIRST,
    HOLIDAYS,
    LAST,
    ONE_DAY,
    WEEKDAYS,
    Day,
    days_after,
    is_off,
    notice,
    said,
)

ROWS, SEED = 1200, 17
MATTERS = ("食品经营许可", "建筑施工许可", "道路运输许可", "户外广告设置", "特种设备使用登记", "取水许可", "卫生许可",
           "政府信息公开申请", "占道施工申请", "民办学校设立")  # fmt: skip
WORDINGS = (
    "{matter}于{day}受理，{count}个工作日内办结，最迟哪天？",
    "{day}收到{matter}材料，期限{count}个工作日，截止日是哪天？",
    "{matter}自{day}起{count}个工作日内答复，最后一天是？",
)


def received(rng: random.Random) -> Day:
    """A working day; two in three within two weeks before a holiday."""
    while True:
        if rng.random() < 2 / 3:
            day = Day.fromisoformat(rng.choice(HOLIDAYS)[0]) - ONE_DAY * rng.randint(1, 14)
        else:
            day = FIRST + ONE_DAY * rng.randrange((LAST - FIRST).days)
        if day >= FIRST and not is_off(day):
            return day


def counted(days: list[Day]) -> str:
    """Each day with its weekday: its number, or 休 where nobody works."""
    told, number = [], 0
    for day in days:
        number += not is_off(day)
        told.append(f"{day.day}{WEEKDAYS[day.weekday()]}{'休' if is_off(day) else number}")
    return " ".join(told)


def drawn(rng: random.Random, _language: str) -> Row:
    day, count = received(rng), rng.randint(1, 10)
    days = days_after(day, count)
    question = rng.choice(WORDINGS).format(matter=rng.choice(MATTERS), day=said(day), count=count)
    return {
        "question": question,
        "notice": notice(day),
        "received": day.isoformat(),
        "working_days": count,
        "counted": counted(days),
        "deadline": days[-1].isoformat(),
    }


def make(rows: int, seed: int) -> list[Row]:
    return distinct(drawn, rows, seed, languages=("zh",))
