"""What personal data and secrets look like: a table of patterns, each with the check that tells it from measurements."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

Check = Callable[[re.Match[str]], str | None]  # a note (mostly empty), or None: a false alarm


@dataclass(frozen=True)
class Detector:
    """One form. Where the pattern has a group `value`, that is the find, else the whole match.

    Attributes:
        label: what stands in its place after redaction.
        needs: literals of which a text must have one, else it isn't searched.
        secret: falls under `screen.secrets`, else under `screen.personal_data`.
    """

    kind: str
    label: str
    pattern: re.Pattern[str]
    check: Check
    needs: tuple[str, ...] = ()
    secret: bool = False


def _always(found: re.Match[str]) -> str | None:
    return ""


def _random(found: re.Match[str]) -> str | None:
    """A password in use has digits and letters; `password: required` has not."""
    value = found["value"]
    return "" if re.search(r"[0-9]", value) and re.search(r"[A-Za-z]", value) else None


# Codes of provinces, first two digits of GB/T 2260; 91 stands for permanent residents from abroad.
_PROVINCES = frozenset(map(str, (*range(11, 16), 21, 22, 23, *range(31, 38), *range(41, 47), *range(50, 55),
                                 *range(61, 66), 71, 81, 82, 83, 91)))  # fmt: skip


def _resident_id(found: re.Match[str]) -> str | None:
    """GB 11643: province, date of birth, check digit (ISO 7064 MOD 11-2)."""
    from stdnum.cn import ric
    from stdnum.exceptions import ValidationError

    number = found.group().upper()
    try:
        born = ric.get_birth_date(number)
    except ValidationError:
        return None
    plausible = dt.date(1900, 1, 1) <= born <= dt.date.today() and number[:2] in _PROVINCES
    return "" if plausible and ric.calc_check_digit(number) == number[-1] else None


def _old_resident_id(found: re.Match[str]) -> str | None:
    """The form until 1999: no check digit, so the county must be one that has been (one number in 150 begins like one)."""
    from stdnum import numdb

    number = found.group()
    try:
        dt.date(1900 + int(number[6:8]), int(number[8:10]), int(number[10:12]))
    except ValueError:
        return None
    place = dict(item for _, items in numdb.get("cn/loc").info(number[:6]) for item in items.items())
    return _not_an_amount(found) if "county" in place else None


def _iban(found: re.Match[str]) -> str | None:
    """ISO 13616: check digits (MOD 97-10), a country's code and the form of its accounts."""
    from stdnum import iban

    return "" if iban.is_valid(found.group()) else None


def _credit_code(found: re.Match[str]) -> str | None:
    """GB 32100; digits only are held to the check digit of the organisation code inside as well (GB 11714)."""
    from stdnum.cn import uscc

    number = found.group()
    if not uscc.is_valid(number) or number[2:4] not in _PROVINCES | {"10"}:
        return None
    if number.isdigit():
        weights = (3, 7, 9, 10, 5, 8, 4, 2)
        check = -sum(int(digit) * weight for digit, weight in zip(number[8:16], weights, strict=True)) % 11
        return "" if str(check) == number[16] else None
    return ""


# First digits and lengths of cards in use: UnionPay, its members' older debit cards, Visa, Mastercard, Amex, JCB,
# Discover. Visa's old form of 13 digits is left out: barcodes look like it.
_CARDS = tuple(
    (re.compile(prefix), lengths)
    for prefix, lengths in (
        (r"62", (16, 17, 18, 19)),
        (r"9558|95599|436742|6013|60138|405512|421349|601428|603367", (16, 18, 19)),
        (r"4", (16, 19)),
        (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),
        (r"3[47]", (15,)),
        (r"352[89]|35[3-8]", (16,)),
        (r"6011|65", (16,)),
    )
)


def _bank_card(found: re.Match[str]) -> str | None:
    from stdnum import luhn

    number = re.sub(r"[ -]", "", found.group())
    known = any(len(number) in lengths and prefix.match(number) for prefix, lengths in _CARDS)
    return _not_an_amount(found) if known and len(set(number)) > 1 and luhn.is_valid(number) else None


_UNIT = re.compile(
    r"\s*(?:[亿万千元圆吨股份%]|美元|港元|人民币|公斤|立方|平方|kg\b|t\b|m[23]\b|m[²³]|[kMG]Wh|USD|CNY|RMB|EUR)"
)
_CURRENCY = re.compile(r"(?:[$€£¥￥]|CNY|USD|RMB|EUR|HKD)\s*$")


def _not_an_amount(found: re.Match[str]) -> str | None:
    """13.8 billion yuan is written 13800000000元 too."""
    before = found.string[max(0, found.start() - 5) : found.start()]
    amount = _UNIT.match(found.string, found.end()) or _CURRENCY.search(before)
    return None if amount or found.group().endswith("000000") else ""


_ADDRESS = re.compile(r"ip|addr|host|server|gateway|dns|ping|inet|ssh|地址|主机|服务器|网关|登录", re.IGNORECASE)
_VERSION = re.compile(r"(?:version|ver\.?|release|section|table|fig\.?|§|版本|版|第|条|图|表)\s*$", re.IGNORECASE)


def _ip_address(found: re.Match[str]) -> str | None:
    """Four small numbers may be a version or a paragraph: then a word that says address must stand before them."""
    address = ipaddress.IPv4Address(found.group())
    before = found.string[max(0, found.start() - 16) : found.start()]
    nobody = address.is_loopback or address.is_multicast or address.is_reserved or address.packed[0] in (0, 255)
    if nobody or _VERSION.search(before):
        return None
    clear = max(address.packed) >= 100 or (0 in address.packed and address.is_private)
    if not clear and not _ADDRESS.search(before):
        return None
    return "private" if address.is_private else "public"


def _ipv6_address(found: re.Match[str]) -> str | None:
    """Global unicast, unique local and link local: `12::30` and `std::vector` are none of these."""
    try:
        address = ipaddress.IPv6Address(found.group())
    except ValueError:
        return None
    if not (address.packed[0] >> 5 == 1 or address.packed[0] >> 1 == 0xFC >> 1 or address.is_link_local):
        return None
    return "private" if address.is_private else "public"


_PLACE = re.compile(
    r"(?<![a-z])(?:lat|latitude|lon|lng|long|longitude|coord|coords|coordinates?|gps|wgs-?84|gcj-?02|location|site)(?![a-z])"
    r"|[经纬]度|[东西]经|[南北]纬|经纬|坐标|位置|地点|站点|井口",
    re.IGNORECASE,
)
_HEMISPHERE = re.compile(r"°(?![CF])|(?<![A-Za-z])[NSEW](?![A-Za-z])")


def _coordinates(found: re.Match[str]) -> str | None:
    """Latitude and longitude to 4 decimals (11 m) or better, in either order.

    Beside no word that says place, only a lone pair with a comma and 5 decimals counts: tables are full of the rest.
    """
    a, b, between = abs(float(found["a"])), abs(float(found["b"])), found["between"]
    if min(a, b) > 90 or max(a, b) > 180 or max(a, b) < 1:
        return None
    before = found.string[max(0, found.start() - 24) : found.start()]
    after = found.string[found.end() : found.end() + 3]
    if _PLACE.search(before + between) or _HEMISPHERE.search(f"{before[-2:]}|{between}|{after}"):
        return ""
    precise = all(len(found[name].partition(".")[2]) >= 5 for name in ("a", "b"))
    lone = not re.search(r"[0-9][\s,;|]*$", before) and not re.match(r"[\s,;|]*[-+0-9]", after)
    return "" if precise and lone and between.strip() in (",", "，") and max(a, b) > 70 else None


_ALONE = r"(?<![0-9A-Za-z_-])(?<![0-9]\.)"
_ENDS = r"(?![0-9A-Za-z_]|\.[0-9])"
_NOT_IN_LIST = (r"(?<![0-9][ -])", r"(?![ -][0-9])")  # for numbers written in groups
_MOBILE = r"1(?:3[0-9]|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8[0-9]|9[0-35-9])"
_AREA = r"0(?:10|2[0-57-9]|[3-9][0-9]{2})"  # of the national numbering plan: 8 or 7 digits follow, the first 2 to 8
_LOCAL = r"[2-8][0-9]{2,3}[ -]?[0-9]{4}"
_EXTENSION = r"(?:(?:-|转| ?ext\.? ?)[0-9]{1,5})?(?!-?[0-9])"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_WORD = r"(?<![0-9A-Za-z_-])", r"(?![0-9A-Za-z_-])"

# In order of precedence: where two finds overlap, the earlier detector's stands.
DETECTORS = (
    Detector("private_key", "[PRIVATE_KEY]", re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:.*?-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----)?", re.DOTALL
    ), _always, ("PRIVATE KEY",), secret=True),
    Detector("api_key", "[API_KEY]", re.compile(
        _WORD[0] + r"(?:A[KS]IA[A-Z2-7]{16}|LTAI[A-Za-z0-9]{12,24}|AKID[A-Za-z0-9]{13,40}|AIza[0-9A-Za-z_-]{35}"
        r"|hf_[A-Za-z0-9]{30,40}|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
        r"|glpat-[A-Za-z0-9_-]{20,64}|xox[abprs]-[0-9A-Za-z-]{10,72}"
        r"|sk-(?=(?:[A-Za-z_-]*[0-9]){3})[A-Za-z0-9_-]{20,200})" + _WORD[1]  # sk-three-words-and-more has no digits
    ), _always, ("AKIA", "ASIA", "LTAI", "AKID", "AIza", "hf_", "gh", "glpat-", "xox", "sk-"), secret=True),
    Detector("token", "[TOKEN]", re.compile(
        _WORD[0] + r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    ), _always, ("eyJ",), secret=True),
    Detector("password", "[PASSWORD]", re.compile(
        r"(?i:password|passwd|pwd|api[_-]?key|secret(?:[_-]?(?:access[_-]?)?key)?|access[_-]?token|密码|口令)"
        r"[\"']?\s*(?:[=:]|为|是)\s*[\"']?(?P<value>[A-Za-z0-9_+/=!@#$%^&*~.-]{8,})"
    ), _random, ("=", ":", "为", "是"), secret=True),
    Detector("password", "[PASSWORD]", re.compile(r"://[^\s:/@]{1,64}:(?P<value>[^\s:/@]{3,128})@"),
             _always, ("://",), secret=True),
    Detector("resident_id", "[ID]", re.compile(_ALONE + r"[0-9]{17}[0-9Xx]" + _ENDS), _resident_id),
    Detector("resident_id", "[ID]", re.compile(_ALONE + r"[1-8][0-9]{14}" + _ENDS), _old_resident_id),
    Detector("credit_code", "[CREDIT_CODE]", re.compile(
        _ALONE + r"[1-9][1-9][0-9]{6}[0-9A-HJ-NPQRTUWXY]{10}" + _ENDS), _credit_code),
    Detector("bank_card", "[CARD]", re.compile(_ALONE + r"[0-9]{15,19}" + _ENDS), _bank_card),
    Detector("bank_card", "[CARD]", re.compile(
        _ALONE + _NOT_IN_LIST[0] + r"(?:[0-9]{4}(?:[ -][0-9]{4}){3}(?:[ -][0-9]{1,3})?|3[47][0-9]{2}[ -][0-9]{6}[ -][0-9]{5})"
        + _NOT_IN_LIST[1] + _ENDS), _bank_card),
    Detector("phone", "[PHONE]", re.compile(
        _ALONE + r"(?:(?:\+|00)?86[ -]?)?" + _MOBILE + r"[0-9]{8}" + _ENDS), _not_an_amount, ("1",)),
    Detector("phone", "[PHONE]", re.compile(
        _ALONE + _NOT_IN_LIST[0] + r"(?:(?:\+|00)?86[ -]?)?" + _MOBILE + r"[ -][0-9]{4}[ -][0-9]{4}"
        + _NOT_IN_LIST[1] + _ENDS), _not_an_amount, ("1",)),
    Detector("phone", "[PHONE]", re.compile(
        _ALONE + rf"(?:\({_AREA}\)[ -]?|{_AREA}-|(?:\+|00)86[ -]?(?:\({_AREA}\)|{_AREA}|{_AREA[1:]})[ -]?)"
        + _LOCAL + _EXTENSION + _ENDS), _not_an_amount, ("-", ")", "86")),
    Detector("phone", "[PHONE]", re.compile(
        r"(?i:电话|座机|传真|热线|telephone|tel|phone|fax)[^0-9\n]{0,12}?" + rf"(?P<value>{_AREA} ?{_LOCAL}{_EXTENSION})" + _ENDS
    ), _always, ("0",)),
    Detector("iban", "[IBAN]", re.compile(
        _WORD[0] + r"(?:[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}"
        r"|[A-Z]{2}[0-9]{2} [A-Z0-9]{4}(?: (?=[A-Z]*[0-9])[A-Z0-9]{4}){1,6}(?: (?=[A-Z]*[0-9])[A-Z0-9]{1,3})?)" + _WORD[1]
    ), _iban),
    Detector("passport", "[PASSPORT]", re.compile(
        r"(?i:护照|通行证|passport(?:[ _-]?(?:no|number|num|id)\b)?\.?(?: is)?)[^A-Za-z0-9\n]{0,12}"
        r"(?P<value>[A-Z]{1,2}[0-9]{6,8}|[0-9]{9}|[0-9]{2}[A-Z]{2}[0-9]{5})" + _WORD[1]
    ), _always),
    Detector("email", "[EMAIL]", re.compile(
        r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
    ), _always, ("@",)),
    Detector("ip_address", "[IP]", re.compile(
        rf"(?<![0-9A-Za-z_.-])(?<![0-9A-Za-z]/)(?:{_OCTET}\.){{3}}{_OCTET}(?![0-9A-Za-z_]|\.[0-9])"
    ), _ip_address, (".",)),
    Detector("ip_address", "[IP]", re.compile(
        r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:]|\.[0-9])"
    ), _ipv6_address, (":",)),
    Detector("coordinates", "[COORDINATES]", re.compile(
        r"(?<![0-9.,-])(?P<a>[-+]?[0-9]{1,3}\.[0-9]{4,9})(?P<between>[^0-9.+-]{1,24})(?P<b>[-+]?[0-9]{1,3}\.[0-9]{4,9})"
        r"(?![0-9]|\.[0-9])"
    ), _coordinates, (".",)),
)  # fmt: skip
