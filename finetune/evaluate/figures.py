"""The figures of a text: every number, date and time in it, where it stands and how exactly it is written. Pure functions.

Numbers are read as metric `quantity` reads them, dates and times as `date` does. No figures are: digits within a word or a
name (CO2, E5981, COVID-19, const_100), 10^9 as part of a unit, what numbers a line ("2. ", "(3)", "第二步"), keys of JSON, and
in what somebody claims (`claims`) numerals of ordinary words (一般, 十分, 一个) and number words in English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

from finetune.evaluate.dates import Moment, moments
from finetune.evaluate.normalise import chinese_number
from finetune.evaluate.quantity import LETTERS, NUMBER, NUMERALS, grouped, plain_text, scale_of

# Words that say of a number without a sign that it is below zero, or less than before.
_FALLING = re.compile(
    "降|减|跌|亏|损|负|零下|低于|缩|流出|支出|(?i:\\b(?:down|f[ae]ll\\w*|declin\\w*|decreas\\w*|drop\\w*|loss\\w*|lost|below|minus|negative|less"
    "|reduc\\w*|shr[aiu]nk\\w*|outflow\\w*))"
)
_CLAUSE = re.compile(r"[\d,;.!?，。；！？、]")  # up to the next figure, or the end of what is said of this one
_BEFORE, _AFTER = 24, 14  # characters around a number in which such a word speaks of it
_NOT_IN_A_NAME = re.compile(r"(?:[A-Za-z_#][-_]?|\d\^)\Z")
_POWER = re.compile(r"\s*\^")
_DOTTED = re.compile(r"(?<![\w.])\d+(?:\.\d+){2,}(?!\w)")  # a version, an address, a section: 10.0.0.1
_MARKER = re.compile(
    r"(?m)^[ >*#-]*(?:\d{1,2}[.、:](?=\s*[^\W\d])|\d{1,2}\)(?=\s|[^\W\d])|\(\d{1,2}\)(?=\s*[^\W\d])"
    r"|[一二三四五六七八九十]{1,3}[、.]"
    r"|(?i:step|item|no\.)\s*\d{1,2}\b|步骤\s*\d{1,2})|第[一二三四五六七八九十\d]{1,2}(?:步|[,，、:：])"
)
_KEY = re.compile(r'"([^"\n]*)"\s*:')
_PERCENT = re.compile(r"\s*(?:([%‰])|个百分点|(?i:percent|per cent|pct)\b)")
_OF_A_CLOCK = re.compile(r"\s?(?:[日号月时点]|st\b|nd\b|rd\b|th\b|h\b)")
_ORDINAL = re.compile("[条章款项季届期页批号级类]")
_COUNTED = re.compile(
    "\\s*(?:[人名年月日号天秒次倍元角吨克米级度成折条处起台座辆例岁周层点时股份%℃]|小时|分钟|公斤|千克|公里|千米|毫米|厘米|季度|个(?:月|小时|百分点|工作日))"
)
_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "hundred": 100,
}  # fmt: skip
_WORD = re.compile(rf"(?i:\b({'|'.join(sorted(_WORDS, key=len, reverse=True))})\b)")


_SCALES = {"千": 3, "万": 4, "百万": 6, "千万": 7, "亿": 8, "thousand": 3, "million": 6, "mn": 6, "billion": 9, "bn": 9}
_SCALE_ALONE = re.compile(
    "(百万|千万|[千万亿])(?=[元吨股份户人美港欧日]|千瓦|平方|立方)|\\b(?i:(thousand|million|billion)s?|(mn|bn))\\b"
)


@dataclass(frozen=True)
class Figure:
    """One number, date or time.

    Attributes:
        text: as it is written. start: its place in the text as `readable` has it. line: from 0.
        value: with its scale (3.5万 is 35000); None of a date, a time and what is only digits (10.0.0.1).
        step: what one more in the last digit written would add: 0.1 of 12.5, 1000 of 3.5万.
        digits: how many digits are written, leading zeros apart.
        scaled: a scale (万, million) is written beside it. power: of ten, which the scale and an exponent come to.
        percent: 1 for %, 0 without; ‰ is told by 10.
        falling: a word beside it, or accounting's parentheses, say that it is below zero or less than before.
        of_a_clock: its unit is one of dates and times (5日, 14 h, the 3rd).
        name: of the field it stands in: the key of JSON, else what is before the separator in its line.
        moment: of a date or a time.
    """

    text: str
    start: int
    line: int
    value: Decimal | None = None
    step: Decimal = Decimal(1)
    digits: int = 0
    scaled: bool = False
    power: int = 0
    percent: int = 0
    falling: bool = False
    of_a_clock: bool = False
    name: str = ""
    moment: Moment | None = None


def readable(text: str) -> str:
    """The text in half-width forms, a line for each that is not empty; what `figures` gives places in."""
    return plain_text(re.sub("[①-⑳]", "•", text))


def scales_alone(text: str) -> tuple[int, ...]:
    """Powers of ten that a text names without a number before: 4 of "金额单位万元", 6 of "( in millions )"."""
    found = {
        _SCALES[(match[1] or match[2] or match[3]).lower()]
        for match in _SCALE_ALONE.finditer(text)
        if not re.search(r"[\d零〇一二三四五六七八九十百千万两数几]\s*$", text[: match.start()])
    }
    return tuple(sorted(found))


@lru_cache(maxsize=64)
def figures(text: str, claims: bool = False, separator: str = ": ") -> tuple[Figure, ...]:
    """All figures of a text, in order.

    Args:
        text: as `readable` gives it.
        claims: what somebody says, of which nothing is to be called a number that is none; else all that might be one.
    """
    hidden = _DOTTED.finditer(text)
    found = [Figure(match[0], match.start(), 0) for match in hidden]
    rest = _blanked(text, [(one.start, one.start + len(one.text)) for one in found])
    if claims:
        rest = _blanked(rest, [match.span() for match in _MARKER.finditer(rest)])
    rest = _blanked(rest, [match.span() for match in _KEY.finditer(rest)])
    placed = [(start, end, its) for start, end, its in moments(rest)]
    found += [Figure(text[start:end], start, 0, moment=moment) for start, end, moment in placed]
    rest = _blanked(rest, [(start, end) for start, end, _ in placed])
    numbers = [*_numbers(rest, text)]
    found += numbers
    rest = _blanked(rest, [(one.start, one.start + len(one.text)) for one in numbers])
    found += _numerals(rest, claims)
    if not claims:
        found += [
            Figure(match[0], match.start(), 0, Decimal(_WORDS[match[0].lower()]), digits=1)
            for match in _WORD.finditer(rest)
        ]
    return tuple(_placed(one, text, separator) for one in sorted(found, key=lambda one: one.start))


def _blanked(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with a mark that no number has in place of each span; places stay."""
    for start, end in spans:
        text = f"{text[:start]}{'¦' * (end - start)}{text[end:]}"
    return text


def _numbers(text: str, whole: str) -> Iterator[Figure]:
    before: tuple[Figure, bool, int] | None = None  # the last one, whether 万 or 亿 ends it, and where its match ends
    pending: list[Figure] = []
    for match in NUMBER.finditer(text):
        start = match.start("digits")
        if _NOT_IN_A_NAME.search(text[max(0, start - 3) : start]) or _POWER.match(text, match.end()):
            continue
        written = match["digits"].rstrip(",")
        parts = [written] if grouped(written) else written.split(",")  # 12,5 is two numbers of a list
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            one = _number(part, start, match if last else None, whole)
            if index == 0 and before and before[1] and before[2] == match.start() and pending[-1].value is not None:
                one = _joined(pending.pop(), one, whole)
            start += len(part) + 1
            yield from pending
            pending = [one] if part else []
            before = (one, bool(match["han"]) and last and one.value is not None, match.end())
    yield from pending


def _joined(large: Figure, small: Figure, whole: str) -> Figure:
    """3亿5000万 is one number."""
    if large.value is None or small.value is None:
        return small
    end = small.start + len(small.text)
    return replace(small, text=whole[large.start : end], start=large.start, value=large.value + small.value,
                   digits=large.digits + small.digits, power=0)  # fmt: skip


def _number(digits: str, start: int, match: re.Match[str] | None = None, whole: str = "") -> Figure:
    """One number; `match` of NUMBER for its sign, scale and unit. More than 18 digits are no number but a text."""
    if not grouped(digits):
        return Figure(digits, start, 0)
    value = Decimal(digits.replace(",", "") or 0)
    exponent = int(value.as_tuple().exponent)
    count = len(digits.replace(",", "").replace(".", "").lstrip("0")) or 1
    if match is None:
        return Figure(digits, start, 0, value, Decimal(1).scaleb(exponent), count)
    power = int(match["e"] or match["power"] or 0) + scale_of(match)
    scaled = bool(match["han"] or match["word"])
    if match["letter"] and match["money"]:
        power, scaled = power + LETTERS[match["letter"].lower()], True
    sign = (match["sign"] or "").strip().lower()
    below = sign in ("负", "minus") or (sign == "-" and not re.match(r"-\s", match[0].lstrip())) or match["inner"]
    after = _PERCENT.match(whole, match.end())
    percent = int(bool(after or match["of"]))
    if (match["of"] or "")[:1] == "千" or (after and after[1] == "‰"):
        percent = 10
    end = match.end() if scaled else start + len(digits)
    return Figure(
        whole[start:end], start, 0, (-value if below else value).scaleb(power), Decimal(1).scaleb(exponent + power),
        count, scaled, power, percent,
    )  # fmt: skip


def _numerals(text: str, claims: bool) -> Iterator[Figure]:
    for match in NUMERALS.finditer(text):
        said = match["numeral"]
        value = chinese_number(said)
        if value is None or (claims and not _claimed(text, match)):
            continue
        exponent = int(value.as_tuple().exponent)
        percent = 0 if not match["of"] else 1 if match["of"][0] == "百" else 10
        if said[-1] in "万亿萬億":  # 三千万 is written to the 万
            exponent = 8 if said[-1] in "亿億" else 4
        yield Figure(said, match.start("numeral"), 0, value, Decimal(1).scaleb(exponent), len(said), True, percent)


def _claimed(text: str, match: re.Match[str]) -> bool:
    """Whether a numeral is meant as a number: 三人, 第三条, 百分之三, 三十二; not 一般, 一个, 千万, 十分."""
    said, after = match["numeral"], text[match.end() : match.end() + 4]
    if match["of"]:
        return True
    if text[: match.start()].endswith("第"):
        return _ORDINAL.match(after) is not None
    if len(said) > 1:
        return re.search("[零〇二三四五六七八九壹贰叁肆伍陆柒捌玖]", said) is not None
    return said not in "一百千万亿" and _COUNTED.match(after) is not None


def _placed(figure: Figure, text: str, separator: str) -> Figure:
    """The figure with its line, its field's name and what the words around it say."""
    start, end = figure.start, figure.start + len(figure.text)
    begin = text.rfind("\n", 0, start) + 1
    stop = text.find("\n", start)
    line = text[begin : stop if stop >= 0 else len(text)]
    before = _CLAUSE.split(text[max(begin, start - _BEFORE) : start])[-1]
    after = _CLAUSE.split(text[end : min(end + _AFTER, begin + len(line))])[0]
    enclosed = re.search(r"\(\s*[$¥€£]?\s*$", text[begin:start]) and re.match(r"\s*%?\s*\)", text[end:])
    if text.lstrip()[:1] in "{[":
        keys = _KEY.findall(text[:start])
        name = keys[-1] if keys else ""
    else:
        name = line.partition(separator)[0].strip() if separator in line[: start - begin] else ""
    return replace(
        figure,
        line=text.count("\n", 0, start),
        name=name,
        falling=bool(enclosed or _FALLING.search(f"{before} ¦ {after}")),
        of_a_clock=_OF_A_CLOCK.match(text, end) is not None,
    )
