"""Working days of mainland China in 2025 and 2026.

Public holidays and the days worked in their stead are facts of the notices of the General Office of the State Council
of 12 November 2024 and 4 November 2025.
"""

from __future__ import annotations

import datetime

Day = datetime.date
WEEKDAYS = "一二三四五六日"
# First and last day off, and the weekend days worked in their stead.
HOLIDAYS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("2025-01-01", "2025-01-01", ()),
    ("2025-01-28", "2025-02-04", ("2025-01-26", "2025-02-08")),
    ("2025-04-04", "2025-04-06", ()),
    ("2025-05-01", "2025-05-05", ("2025-04-27",)),
    ("2025-05-31", "2025-06-02", ()),
    ("2025-10-01", "2025-10-08", ("2025-09-28", "2025-10-11")),
    ("2026-01-01", "2026-01-03", ("2026-01-04",)),
    ("2026-02-15", "2026-02-23", ("2026-02-14", "2026-02-28")),
    ("2026-04-04", "2026-04-06", ()),
    ("2026-05-01", "2026-05-05", ("2026-05-09",)),
    ("2026-06-19", "2026-06-21", ()),
    ("2026-09-25", "2026-09-27", ()),
    ("2026-10-01", "2026-10-07", ("2026-09-20", "2026-10-10")),
)
FIRST, LAST = Day(2025, 1, 1), Day(2026, 11, 30)
TOLD_AHEAD = datetime.timedelta(days=30)
ONE_DAY = datetime.timedelta(days=1)


def is_off(day: Day) -> bool:
    """Whether nobody works: a holiday, or a weekend day not worked in another's stead."""
    text = day.isoformat()
    if any(text in worked for *_, worked in HOLIDAYS):
        return False
    return day.weekday() >= 5 or any(first <= text <= last for first, last, _ in HOLIDAYS)


def days_after(start: Day, count: int) -> list[Day]:
    """Every day after the start up to the `count`th working day, days off included."""
    days: list[Day] = []
    while count:
        days.append((days[-1] if days else start) + ONE_DAY)
        count -= not is_off(days[-1])
    return days


def notice(start: Day) -> str:
    """Holidays and days worked in their stead of the 30 days after the start, as a prompt tells them."""
    ahead = {(start + ONE_DAY * n).isoformat() for n in range(1, TOLD_AHEAD.days + 1)}
    off = [
        f"{_short(first)}至{_short(last)}" if first != last else _short(first)
        for first, last, _ in HOLIDAYS
        if ahead & {first, last}
    ]
    worked = [_short(day) for *_, days in HOLIDAYS for day in days if day in ahead]
    return f"放假：{'，'.join(off) or '无'}；调休上班：{'，'.join(worked) or '无'}"


def said(day: Day) -> str:
    """As 2026-02-13（周五）."""
    return f"{day.isoformat()}（周{WEEKDAYS[day.weekday()]}）"


def _short(text: str) -> str:
    return text[5:]
