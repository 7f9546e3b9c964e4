"""ISIN and unified social credit codes, whole or with the check character missing, and what a check of them finds.

The rules: ISO 6166 with the Luhn formula of ISO/IEC 7812 over letters as 10 to 35; GB 32100-2015 with weights 3^i mod 31.
Codes are made up; some may be in use.
"""

from __future__ import annotations

import random
import string

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
DIGITS = string.digits
LETTERS = string.digits + string.ascii_uppercase  # their place is their value
COUNTRIES = ("US", "GB", "DE", "FR", "CN", "HK", "JP", "CH", "NL", "SE", "AU", "CA", "SG", "ES", "IT")
NO_COUNTRIES = ("ZZ", "QX", "UK", "JA", "XQ", "YY")
CREDIT = "0123456789ABCDEFGHJKLMNPQRTUWXY"  # without I, O, S, V, Z
LEADING = ("91", "92", "93", "51", "52", "12", "11")  # registration authority and kind of organisation
PLACES = ("110108", "310115", "440305", "330106", "510107", "420111", "320214", "370212", "500112", "610113")
FAULTS = (
    "valid",
    "valid",
    "wrong_check",
    "wrong_length",
    "bad_character",
    "bad_prefix",
    "missing_check",
    "missing_check",
)


def isin_check(body: str) -> str:
    """The twelfth character of eleven: letters become two digits, and from the right every other digit is doubled."""
    digits = [int(digit) for letter in body for digit in str(LETTERS.index(letter))]
    doubled = [2 * digit if place % 2 == 0 else digit for place, digit in enumerate(reversed(digits))]
    return str(-sum(value // 10 + value % 10 for value in doubled) % 10)


def credit_check(body: str) -> str:
    """The eighteenth character of seventeen."""
    total = sum(CREDIT.index(letter) * pow(3, place, 31) for place, letter in enumerate(body))
    return CREDIT[-total % 31]


def isin(rng: random.Random) -> str:
    letters = LETTERS if rng.random() < 0.4 else DIGITS
    return rng.choice(COUNTRIES) + "".join(rng.choice(letters) for _ in range(9))


def credit_code(rng: random.Random) -> str:
    """Seventeen characters; the organisation's own code ends with its check character (GB 11714), as in the standard."""
    own = "".join(rng.choice(DIGITS if rng.random() < 0.7 else CREDIT) for _ in range(8))
    weights = (3, 7, 9, 10, 5, 8, 4, 2)
    rest = 11 - sum(weight * LETTERS.index(letter) for weight, letter in zip(weights, own, strict=True)) % 11
    last = {10: "X", 11: "0"}.get(rest, str(rest))
    return rng.choice(LEADING) + rng.choice(PLACES) + own + last


def spoilt(rng: random.Random, code: str, fault: str, kind: str) -> str:
    """A whole code with one fault."""
    if fault == "wrong_check":
        letters = DIGITS if kind == "isin" else CREDIT
        return code[:-1] + rng.choice([letter for letter in letters if letter != code[-1]])
    if fault == "wrong_length":
        at = rng.randrange(3, len(code) - 1)
        return code[:at] + code[at + 1 :] if rng.random() < 0.5 else code[:at] + code[at] + code[at:]
    if fault == "bad_character":
        at = rng.randrange(9, len(code) - 1)
        return code[:at] + rng.choice("-*#" if kind == "isin" else "IOSVZ") + code[at + 1 :]
    if fault == "bad_prefix":
        return rng.choice(NO_COUNTRIES) + code[2:]
    return code


def make(rows: int, seed: int) -> list[Row]:
    return distinct(identifiers, rows, seed)


def identifiers(rng: random.Random, language: str) -> Row:
    kind = rng.choice(("isin", "uscc"))
    asked = rng.choice([fault for fault in FAULTS if kind == "isin" or fault != "bad_prefix"])
    body = isin(rng) if kind == "isin" else credit_code(rng)
    check = isin_check(body) if kind == "isin" else credit_check(body)
    missing = asked == "missing_check"
    code = body if missing else spoilt(rng, body + check, asked, kind)
    return {"kind": kind, "code": code, "asked": "check" if missing else "valid", "answer": check if missing else asked}
