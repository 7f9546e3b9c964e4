"""Scores of a number with its unit: percent, thousands, 万 and million, accounting's parentheses. Pure functions of text."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal

from finetune.data.metric import Metric
from finetune.evaluate.normalise import NUMERAL, chinese_number, result_of
from finetune.evaluate.units import MONEY, NAMES, converted, unit_named

_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_WORDS = {"thousand": 3, "million": 6, "mn": 6, "mln": 6, "billion": 9, "bn": 9, "trillion": 12, "tn": 12}
LETTERS = {"k": 3, "m": 6, "b": 9}  # after money only: 12 m is a length
_CHARACTERS = {"百": 2, "千": 3, "万": 4, "亿": 8, "萬": 4, "億": 8}

_PREFIX = r"(?P<money>US\$|HK\$|[$¥€£]|(?:USD|CNY|RMB|EUR|GBP|JPY|HKD|人民币)\b)?\s*"
_DIGITS = (
    r"(?P<digits>\d[\d,]*(?:\.\d+)?|\.\d+)(?:e(?P<e>[-+]?\d{1,2})(?![\dA-Za-z])|\s*[×xX*]\s*10\^(?P<power>-?\d{1,2}))?"
)
# 千 before 克 is part of the unit.
_HAN = r"[百千](?![分克米瓦伏帕焦卡赫])[万亿萬億]*|[万亿萬億]+"
_SCALE = (
    rf"(?:\s*(?P<han>{_HAN})|\s*(?P<word>(?i:thousand|million|mn|mln|billion|bn|trillion|tn))\b"
    r"|\s?(?P<letter>[kKmMbB])(?![A-Za-z/^·\d]))?"
)
_SIGN = r"(?P<sign>(?<![\w.])[-+]|负|(?i:\bminus\s+))?\s*"
# Not the 3 of m3 or m^-3, not the 1.73 of mL/min/1.73 m2, and no part of it.
_START = r"(?<![\^A-Za-z])(?<!\^-)(?<![A-Za-zµμ°Ω]/)(?<!\d)(?<!\d\.)"
NUMBER = re.compile(rf"{_START}(?P<of>[百千]分之)?{_SIGN}{_PREFIX}(?P<inner>(?<![\d.])-)?{_DIGITS}{_SCALE}")
NUMERALS = re.compile(rf"(?P<of>[百千]分之)?(?P<numeral>负?[{NUMERAL}萬億]+(?:[点點][零〇一二三四五六七八九]+)?)")
_LATIN = re.compile(
    r"[°A-Za-zµμΩ$€£¥][A-Za-zµμΩ$]*(?:\^?-?\d)?(?:[/·](?:\d+(?:\.\d+)? ?)?[A-Za-zµμ°Ω]+(?:\^?-?\d)?)*|[%‰]"
)
_CHINESE = sorted((name for name in NAMES if not name.isascii() and name[0].isalpha()), key=len, reverse=True)
_HAN_UNIT = re.compile(rf"(?:{'|'.join(_CHINESE)})(?:/(?:{'|'.join(_CHINESE)}|[A-Za-z]+))?")
_ACCOUNTING = re.compile(r"([^\d(]{0,8})\(([^()]*\d[^()]*)\)(\D{0,12})")


@dataclass(frozen=True)
class Found:
    """A quantity: `number` times ten to `power`, in `unit` (empty without one); `said` is the unit as it is written."""

    number: Decimal
    power: int
    unit: str
    said: str

    @property
    def value(self) -> Decimal:
        return self.number.scaleb(self.power)


def quantity(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """The last quantity of the answer (of its result line, where the reference has a label) against the reference's.

    Returns:
        `exact`: the same value in the same unit, after rounding to the digits that the reference is written with;
        `within_tolerance`: exact, or off by at most `tolerance` times the reference's size, in the same unit;
        `unit_right` of references with a unit: the same one, or with `convert` another of its dimension.
        With `percent`, 12.5 % is 0.125 without a unit; otherwise percent is a unit.
    """
    result, last = result_of(answer, reference, metric.separator)
    wanted = read_quantity(last, metric.percent)
    given = read_quantity(result, metric.percent, wanted.said if wanted else "")
    if wanted is None:
        return {"exact": 0.0, "within_tolerance": 0.0}
    value = None if given is None else _in_unit(given, wanted, metric.convert)
    scores = {"exact": 0.0, "within_tolerance": 0.0}
    if value is not None:
        exact = round(value.scaleb(-wanted.power), -int(wanted.number.as_tuple().exponent)) == wanted.number
        near = abs(value - wanted.value) <= Decimal(str(metric.tolerance)) * abs(wanted.value)
        scores = {"exact": float(exact), "within_tolerance": float(exact or near)}
    return scores | ({"unit_right": float(value is not None)} if wanted.unit else {})


def _in_unit(given: Found, wanted: Found, convert: bool) -> Decimal | None:
    """The value in the reference's unit; a reference without a unit asks for none."""
    if not wanted.unit or given.unit == wanted.unit:
        return given.value
    return converted(given.value, given.unit, wanted.unit) if convert else None


def read_quantity(text: str, percent: bool = False, unit: str = "") -> Found | None:
    """The last quantity of a text; Chinese numerals count where no digits are. None: there is none, or it is not clear.

    Not clear are ranges (10-12), commas that part no thousands (12,5) and more than 18 digits.

    Args:
        percent: percent is a hundredth, not a unit.
        unit: a unit's text to look for first, known or not.
    """
    plain = plain_text(text)
    books = _ACCOUNTING.fullmatch(plain.strip().rstrip(".。"))
    if books and not re.search(r"[-A-Za-z]", books[2]):
        plain = f"{books[1]}-{books[2].strip()}{books[3]}"
    matches = [*NUMBER.finditer(plain)]
    if not matches:
        matches = [*NUMERALS.finditer(plain)]
    if not matches:
        return None
    match = matches[-1]
    number, power = _numeral(match) if "numeral" in match.re.groupindex else _digits(match, plain, matches)
    if number is None:
        return None
    money = NAMES.get(match["money"] or "", "") if "money" in match.re.groupindex else ""
    said, named = _unit(plain[match.end() :], unit)
    if match["of"]:
        named = said = "%" if match["of"][0] == "百" else "‰"
    if money and (not named or named not in MONEY):
        named = said = money
    if _letter(match):
        if named not in MONEY:  # 12 m: not a million but a unit
            said, named = _unit(plain[match.start("letter") :], unit)
        else:
            power += LETTERS[match["letter"].lower()]
    if percent and named in ("%", "‰"):
        return Found(number, power - (2 if named == "%" else 3), "", "")
    return Found(number, power, named, said)


def plain_text(text: str) -> str:
    """Half-width, superscripts as ^2, no spaces between thousands, one kind of minus, no run of white space."""
    text = "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda match: "^" + match[0].translate(_SUPER), text)
    text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-")
    text = re.sub(r"(?<=[A-Za-z]) ?\bper\b ?(?=\d+(?:\.\d+)? ?[A-Za-z])", "/", text)  # mL/min per 1.73 m2
    return re.sub(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)", lambda match: match[0].replace(" ", ""), text)


def _letter(match: re.Match[str]) -> bool:
    return "letter" in match.re.groupindex and match["letter"] is not None


def _numeral(match: re.Match[str]) -> tuple[Decimal | None, int]:
    return chinese_number(match["numeral"]), 0


def _digits(match: re.Match[str], text: str, matches: list[re.Match[str]]) -> tuple[Decimal | None, int]:
    """The number as written and the power of ten beside it; 3亿5000万 is one number."""
    start = match.start("digits")
    if re.search(r"\d\s*[-~至到]\s*[$¥€£]?$", text[:start]) or not grouped(match["digits"]):
        return None, 0
    if text.startswith("^", match.end()):  # 10^5 without a factor
        return None, 0
    number = Decimal(match["digits"].replace(",", ""))
    power = int(match["e"] or match["power"] or 0) + scale_of(match)
    before = matches[-2] if len(matches) > 1 else None
    if before and before["han"] and before.end() == match.start() and grouped(before["digits"]):
        large = Decimal(before["digits"].replace(",", "")).scaleb(scale_of(before))
        number, power = large + number.scaleb(power), 0
        match = before
    if match["inner"] or (match["sign"] or "").strip().lower() in ("-", "负", "minus"):
        number = -number
    return number, power


def grouped(digits: str) -> bool:
    """Whether commas, if any, part thousands, and the number is no endless run."""
    whole = digits.partition(".")[0]
    good = "," not in whole or re.fullmatch(r"\d{1,3}(,\d{3})+", whole) is not None
    return good and sum(map(str.isdecimal, digits)) <= 18


def scale_of(match: re.Match[str]) -> int:
    if match["han"]:
        return sum(_CHARACTERS[character] for character in match["han"])
    return _WORDS[match["word"].lower()] if match["word"] else 0


def _unit(after: str, first: str) -> tuple[str, str]:
    """The unit that follows a number, as written and by its name; one that the table lacks is its own name."""
    after = after.lstrip()[:40]
    if first and after.startswith(first) and not re.match(r"[A-Za-z/^]", after[len(first) :]):
        return first, unit_named(first) or first
    found = _HAN_UNIT.match(after) or _LATIN.match(after) or re.match("[\u4e00-\u9fff]{1,4}", after)
    said = found[0].replace(" ", "") if found else ""
    if said.lower() == "per" and after.lower().startswith("per cent"):
        said = "percent"
    return said, unit_named(said) or said.replace("^", "")
