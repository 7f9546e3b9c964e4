"""What metrics take for the same text or number: width, case, spaces, punctuation, script, Chinese numerals. Pure."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from finetune.errors import DataError

# Everyday numerals and those of contracts and cheques.
_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")}
_DIGITS |= {digit: value for value, digit in enumerate("零壹贰叁肆伍陆柒捌玖")} | {"〇": 0, "两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000, "拾": 10, "佰": 100, "仟": 1000}
_LARGE = (("亿", 10**8), ("万", 10**4))
_TRADITIONAL = str.maketrans("萬億點兩貳參陸負", "万亿点两贰叁陆负")  # numerals, which need no library
_CHINESE = "\u3400-\u9fff\uf900-\ufaff"
NUMERAL = "零〇一二三四五六七八九两十百千万亿壹贰叁肆伍陆柒捌玖拾佰仟"


def normalised(text: str, what: Sequence[str]) -> str:
    """The text without the differences named, and without white space around it.

    Args:
        what: of `width` (NFKC: full-width letters and digits, ligatures, superscripts), `traditional` (to simplified
            characters, by OpenCC), `case`, `punctuation` (left out but for what makes a number: its point, sign and
            percent; commas of thousands go), `space` (none beside a Chinese character, one elsewhere).

    Raises:
        DataError: `traditional` without OpenCC.
    """
    if "width" in what:
        text = unicodedata.normalize("NFKC", text)
    if "traditional" in what:
        text = simplified(text)
    if "case" in what:
        text = text.casefold()
    if "punctuation" in what:
        text = without_punctuation(text)
    if "space" in what:
        text = tight(text)
    return text.strip()


def without_punctuation(text: str) -> str:
    """A space for each mark, so that words stay apart; 1,234.5 as 1234.5; -3, 5% and ° stay."""
    text = re.sub(r"(?<=\d)[,，](?=\d{3})", "", text.replace("\N{MINUS SIGN}", "-"))
    kept = re.compile(r"((?<=\d)\.(?=\d)|(?<!\w)-(?=\d)|[%％‰°+])|[^\w\s]|_")
    return re.sub(r" {2,}", " ", kept.sub(lambda match: match[1] or " ", text))


def tight(text: str) -> str:
    """No white space beside a Chinese character or mark, one space for any other run of it."""
    text = " ".join(text.split())
    return re.sub(
        rf"(?<=[{_CHINESE}\u3000-\u303f\uff00-\uff65]) | (?=[{_CHINESE}\u3000-\u303f\uff00-\uff65])", "", text
    )


def simplified(text: str) -> str:
    """Traditional characters as simplified ones. Raises DataError without OpenCC."""
    if reason := no_simplifier():
        raise DataError(reason)
    return str(_converter().convert(text))


def no_simplifier() -> str | None:
    """Why `traditional` can't be had; None when it can."""
    if importlib.util.find_spec("opencc") is not None:
        return None
    return "normalise: traditional needs OpenCC, which is not installed (pip install 'finetune[chinese]')"


@lru_cache(maxsize=1)
def _converter() -> Any:
    import opencc

    return opencc.OpenCC("t2s")


def chinese_number(text: str) -> Decimal | None:
    """三千零五点二, 二〇二四, 负十二, 一万二 (12000), 叁佰 as a number; None for what is no numeral."""
    if len(text) > 40:
        return None
    text = text.translate(_TRADITIONAL)
    negative = text.startswith("负")
    whole, point, fraction = text.removeprefix("负").partition("点")
    if point and not (fraction and all(digit in _DIGITS for digit in fraction)):
        return None
    value = _whole(whole)
    if value is None:
        return None
    found = Decimal(f"{value}.{''.join(str(_DIGITS[digit]) for digit in fraction)}" if point else value)
    return -found if negative else found


def _whole(text: str) -> int | None:
    """A numeral without sign and point."""
    if text and all(character in _DIGITS for character in text):
        return int("".join(str(_DIGITS[character]) for character in text))
    for name, unit in _LARGE:
        before, found, after = text.rpartition(name)
        if found:
            many = _whole(before)
            if many is None:
                return None
            rest = _rest(after, unit)
            return None if rest is None else many * unit + rest
    return _below_ten_thousand(text)


def _rest(text: str, unit: int) -> int | None:
    """What follows a unit: nothing, a numeral below it, or one digit of the next lower one (一万二 is 12000)."""
    if not text:
        return 0
    if len(text) == 1 and _DIGITS.get(text):
        return _DIGITS[text] * unit // 10
    value = _whole(text.lstrip("零〇"))
    return value if value is not None and value < unit else None


def _below_ten_thousand(text: str) -> int | None:
    at = {index: _UNITS[character] for index, character in enumerate(text) if character in _UNITS}
    if not at:
        return None
    index, unit = max(at.items(), key=lambda item: item[1])
    before, after = text[:index], text[index + 1 :]
    digit = 1 if not before else _DIGITS.get(before.lstrip("零〇"))
    if not digit:
        return None
    rest = _DIGITS.get(after) if unit == 10 and after else _rest(after, unit)
    return None if rest is None else digit * unit + rest


def pairs(text: str, separator: str) -> list[tuple[str, str]]:
    """`name<separator>value` of each line that is not empty."""
    split = (line.partition(separator) for line in text.strip().splitlines() if line.strip())
    return [(name.strip(), value.strip()) for name, _, value in split]


def result_of(answer: str, reference: str, separator: str) -> tuple[str, str]:
    """The part of an answer that counts, and the reference's.

    Where the reference's last line is `label<separator>value`, it is the value of the answer's last line with that
    label (nothing where there is none); without a label, the whole answer and the reference's last line.
    """
    last_line = (reference.strip().splitlines() or [""])[-1]
    label, labelled, value = last_line.partition(separator)
    if not labelled:
        return answer, last_line
    results = [its for name, its in pairs(answer, separator) if name == label.strip()]
    return (results[-1] if results else ""), value
