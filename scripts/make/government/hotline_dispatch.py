"""Calls to a city's hotline, in Chinese, as work orders: who deals with it, how urgent, where, and until when.

Danger does not wait for working days: 特急 ends on the day of the call, 紧急 on the next, whatever days these are.
"""

from __future__ import annotations

import random

from scripts.make.cases import Row, distinct
from scripts.make.government.hotline_words import ISSUES, PLACES, TELLINGS
from scripts.make.government.permit_deadline import received
from scripts.make.government.workdays import ONE_DAY, days_after, notice, said

ROWS, SEED = 1200, 17
LIMITS = {"特急": "当日", "紧急": "次日", "一般": "5个工作日"}


def drawn(rng: random.Random, _language: str) -> Row:
    category = rng.choice(tuple(ISSUES))
    department, issues = ISSUES[category]
    issue, urgency = rng.choice(issues)
    place = f"{rng.choice(PLACES['road'])}{rng.randint(1, 299)}号{rng.choice(PLACES['spot'])}"
    day = received(rng)
    ends = {"特急": day, "紧急": day + ONE_DAY, "一般": days_after(day, 5)[-1]}
    return {
        "call": rng.choice(TELLINGS).format(place=place, issue=issue),
        "received": said(day),
        "notice": notice(day),
        "issue": issue,
        "category": category,
        "department": department,
        "urgency": urgency,
        "location": place,
        "limit": LIMITS[urgency],
        "due": ends[urgency].isoformat(),
    }


def make(rows: int, seed: int) -> list[Row]:
    return distinct(drawn, rows, seed, languages=("zh",))
