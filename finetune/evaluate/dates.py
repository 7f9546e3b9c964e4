"""Scores of dates and times in English and Chinese forms. Pure functions of text."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from finetune.data.metric import Metric
from finetune.evaluate.normalise import chinese_number, result_of

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONG = "january|february|march|april|june|july|august|september|sept|october|november|december"
_MONTH = rf"(?P<name>(?i:{_LONG}|{'|'.join(_MONTHS)}))\b\.?"
_HAN = "零〇一二三四五六七八九十两"
_N = rf"(?:\d{{1,2}}|[{_HAN}]{{1,3}})"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?\b"
_YEAR = r"(?P<year>\d{4})"
_NOT_BEFORE, _NOT_AFTER = r"(?<![\d.,/-])", r"(?![\d/-]|[.,]\d)"

# In the order in which they are tried at a place.
_DATES = [
    re.compile(text)
    for text in (
        rf"(?P<year>\d{{4}}|[{_HAN}]{{4}})\s*年(?:\s*(?P<month>{_N})\s*月(?:\s*(?P<day>{_N})\s*[日号])?)?",
        rf"(?<![\d{_HAN}])(?P<month>{_N})\s*月\s*(?P<day>{_N})\s*[日号]",
        rf"{_NOT_BEFORE}{_YEAR}(?P<mark>[-/.])(?P<month>\d{{1,2}})(?P=mark)(?P<day>\d{{1,2}})(?=T\d)",
        rf"{_NOT_BEFORE}{_YEAR}(?P<mark>[-/.])(?P<month>\d{{1,2}})(?P=mark)(?P<day>\d{{1,2}}){_NOT_AFTER}",
        rf"{_NOT_BEFORE}(?P<one>\d{{1,2}})(?P<mark>[-/.])(?P<two>\d{{1,2}})(?P=mark){_YEAR}{_NOT_AFTER}",
        rf"(?<![\d.]){_DAY}(?:\s+of)?[\s-]+{_MONTH}(?:,?[\s-]+{_YEAR}(?!\d))?",
        rf"\b{_MONTH}\s+{_DAY}(?!:)(?:,?\s+{_YEAR}(?!\d))?",
        rf"\b{_MONTH},?[\s-]+{_YEAR}(?!\d)",
        rf"{_NOT_BEFORE}{_YEAR}-(?P<month>\d{{2}}){_NOT_AFTER}",
        rf"^\s*{_YEAR}\s*$",
    )
]
_HALF = r"(?P<half>(?i:[ap]\.?m\b\.?))"
_CHINESE_HALF = r"(?:(?P<part>凌晨|早上|上午|中午|下午|傍晚|晚上)\s*)?"
_ZONE = r"(?:\s*(?P<zone>Z\b|UTC\b|GMT\b|[+-]\d{2}:?\d{2}\b))?"
_TIMES = [
    re.compile(text)
    for text in (
        rf"{_CHINESE_HALF}(?<![\d:])(?P<hour>\d{{1,2}}):(?P<minute>\d{{2}})(?::(?P<second>\d{{2}})(?:\.\d+)?)?(?![\d:])(?:\s*{_HALF})?{_ZONE}",
        rf"(?<![\d:])(?P<hour>\d{{1,2}})\s*{_HALF}",
        rf"{_CHINESE_HALF}(?<![\d{_HAN}])(?P<hour>{_N})\s*[点时](?!间)(?:(?P<thirty>半)|(?P<quarter>[一三])刻|\s*(?P<minute>{_N})(?:\s*分(?:\s*(?P<second>{_N})\s*秒)?|(?![\d{_HAN}])))?",
    )
]

# Read by `moments` only.
_CLOCK = re.compile(
    r"(?<![\d:])(?P<hour>1[0-2]|0?[1-9])(?P<minute>[0-5]\d)\s?(?P<half>[AaPp])\.?[Mm]\b"
)  # weather services' 815 PM
_HOUR_NAMED = re.compile(r"(?P<name>(?i:\b(?:midnight|noon)\b)|午夜|零点|零时|正午)")
_LOOSE_COLON = re.compile(r"(?<=[^\d\s]):(?=\d)|(?<=\d):(?=\s)")  # of "时间:14:00" and "15:00: Ashford"
_DECIMAL = re.compile(r"点[一二三四五六七八九\d]\Z")  # 十二点五; a time would say 十二点零五 or 五分


@dataclass(frozen=True)
class Moment:
    """What a text says of a date and a time; None is what it does not say. `zone`: minutes east of UTC."""

    year: int | None = None
    month: int | None = None
    day: int | None = None
    time: tuple[int, int, int] | None = None
    zone: int | None = None


def date(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """The last date (and the last time) of the answer, or of its result line, against the reference's.

    Returns:
        `date_right`: all that the reference says is right; and `year_right`, `month_right`, `day_right`, `time_right`
        of references that say them. Where both give an offset from UTC, instants are compared; an offset on one side
        only makes the time wrong.
    """
    result, last = result_of(answer, reference, metric.separator)
    wanted, given = (read_moment(text, metric.date_order) for text in (last, result))
    if wanted.zone is not None and given.zone is not None and wanted.zone != given.zone:
        given = _moved(given, wanted.zone)
    parts = {"year": given.year, "month": given.month, "day": given.day, "time": (given.time, given.zone)}
    asked = {"year": wanted.year, "month": wanted.month, "day": wanted.day, "time": (wanted.time, wanted.zone)}
    said = [name for name in asked if (wanted.time if name == "time" else asked[name]) is not None]
    right = {f"{name}_right": float(parts[name] == asked[name]) for name in said}
    return {"date_right": float(bool(said) and all(right.values()))} | right


def read_moment(text: str, order: str | None = None) -> Moment:
    """The last date and the last time of a text.

    Args:
        order: `day_first` or `month_first`, which 03/05/2024 needs; without it only 25/03/2024, with a part that can't
            be a month, is a date. A date that is ambiguous or that the calendar lacks says nothing.
    """
    plain = unicodedata.normalize("NFKC", text).replace("\N{EN DASH}", "-")
    found = _last(plain, _DATES)
    rest = plain
    moment = Moment()
    if found is not None:
        moment = _date(found, order)
        start, end = found.span()
        rest = f"{plain[:start]}\n{plain[end:].removeprefix('T')}"
    clock = _last(rest, _TIMES)
    if clock is None:
        return moment
    time = _time(clock)
    groups = clock.groupdict()
    zone = groups.get("zone") if time else None
    return Moment(moment.year, moment.month, moment.day, time, None if zone is None else _offset(zone))


def moments(text: str, order: str | None = None) -> list[tuple[int, int, Moment]]:
    """Every date and every time of a text, with its place (start, end), in order; of a year alone only "2024年".

    Read are besides what `read_moment` reads 815 PM, midnight and noon; not "5 may", nor 十二点五, which is 12.5.

    Args:
        text: in half-width forms (NFKC), so that places are its own.
    """
    rest = _LOOSE_COLON.sub(" ", text)
    clocks = _placed(rest, [_CLOCK, _HOUR_NAMED], _named_time)
    rest = _without(rest, clocks)
    dates = [
        one for one in _placed(rest, _DATES, lambda match: _date(match, order)) if not _no_date(rest[one[0] : one[1]])
    ]
    rest = _without(rest, dates)
    times = _placed(rest, _TIMES, lambda match: Moment(time=None if _DECIMAL.search(match[0]) else _time(match)))
    return sorted([*clocks, *dates, *times], key=lambda one: one[:2])


def _no_date(said: str) -> bool:
    return said.strip().isdecimal() or re.search(r"\bmay\b", said) is not None


def _named_time(match: re.Match[str]) -> Moment:
    groups = match.groupdict()
    if "name" in groups:
        return Moment(time=(12 if groups["name"].lower() in ("noon", "正午") else 0, 0, 0))
    return Moment(time=(int(match["hour"]) % 12 + (12 if match["half"] in "Pp" else 0), int(match["minute"]), 0))


def _without(text: str, placed: list[tuple[int, int, Moment]]) -> str:
    """The text with line ends in place of what was found, so that places stay."""
    for start, end, _ in placed:
        text = f"{text[:start]}{chr(10) * (end - start)}{text[end:]}"
    return text


def _placed(
    text: str, patterns: list[re.Pattern[str]], read: Callable[[re.Match[str]], Moment]
) -> list[tuple[int, int, Moment]]:
    """What the patterns find and `read` makes sense of; of two that overlap the first, of two that begin together the longer."""
    matches = [(*match.span(), read(match)) for pattern in patterns for match in pattern.finditer(text)]
    kept: list[tuple[int, int, Moment]] = []
    for start, end, moment in sorted(matches, key=lambda one: (one[0], -one[1])):
        if moment != Moment() and (not kept or start >= kept[-1][1]):
            kept.append((start, end, moment))
    return kept


def _last(text: str, patterns: list[re.Pattern[str]]) -> re.Match[str] | None:
    """The match that ends last; of those that end together the longest."""
    matches = [match for pattern in patterns for match in pattern.finditer(text)]
    return max(matches, key=lambda match: (match.end(), -match.start()), default=None)


def _date(match: re.Match[str], order: str | None) -> Moment:
    groups = match.groupdict()
    year = _number(groups.get("year"))
    if groups.get("one"):
        one, two = int(groups["one"]), int(groups["two"])
        if order is None and one <= 12 and two <= 12 and one != two:
            return Moment()
        day_first = order == "day_first" or (order is None and one > 12)
        day, month = (one, two) if day_first else (two, one)
        return _valid(Moment(year, month, day))
    name = groups.get("name")
    month_of = _number(groups.get("month"))
    if name:
        month_of = _MONTHS.index(name[:3].lower()) + 1
    return _valid(Moment(year, month_of, _number(groups.get("day"))))


def _valid(moment: Moment) -> Moment:
    """The moment, or one that says nothing where the calendar has no such day."""
    try:
        # 2024 has a 29 February, which a date without a year may be.
        dt.date(2024 if moment.year is None else moment.year, moment.month or 1, moment.day or 1)
    except ValueError:
        return Moment()
    return moment if moment.month != 0 and moment.day != 0 else Moment()


def _time(match: re.Match[str]) -> tuple[int, int, int] | None:
    groups = match.groupdict()
    hour = _number(groups["hour"])
    minute = 30 if groups.get("thirty") else _number(groups.get("minute")) or 0
    minute = {"一": 15, "三": 45}.get(groups.get("quarter") or "", minute)
    second = _number(groups.get("second")) or 0
    half, part = (groups.get("half") or "").lower()[:1], groups.get("part")
    if hour is None or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    elif (part in ("下午", "傍晚", "晚上") and hour < 12) or (part == "中午" and hour < 3):
        hour += 12
    elif part == "凌晨" and hour == 12:
        hour = 0
    return (hour, minute, second) if hour < 24 and minute < 60 and second < 60 else None


def _number(text: str | None) -> int | None:
    if not text:
        return None
    value = int(text) if text.isdecimal() else chinese_number(text)
    return None if value is None else int(value)


def _offset(zone: str) -> int:
    if zone[0] not in "+-":
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[-2:])
    return -minutes if zone[0] == "-" else minutes


def _moved(moment: Moment, zone: int) -> Moment:
    """The same instant at another offset; a moment without a whole date or a time stays."""
    if moment.year is None or moment.month is None or moment.day is None or moment.time is None or moment.zone is None:
        return moment
    start = dt.datetime(moment.year, moment.month, moment.day, *moment.time)
    try:
        there = start + dt.timedelta(minutes=zone - moment.zone)
    except OverflowError:
        return moment
    return Moment(there.year, there.month, there.day, (there.hour, there.minute, there.second), zone)
