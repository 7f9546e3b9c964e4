"""Everything that a page says, in both of its languages."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple


class Said(NamedTuple):
    """One text in English and in Chinese."""

    en: str
    zh: str


def number(value: float | None, signed: bool = False) -> str:
    """A score as tables show it; a dash where there is none. Nothing is not signed."""
    if value is None:
        return "–"
    rounded = round(value, 3) or 0.0  # never -0.0
    return f"{rounded:+.3f}" if signed and rounded else f"{rounded:.3f}"


def ends(both: tuple[float, float] | None, signed: bool = False) -> str:
    """An interval in brackets; empty where there is none."""
    return f"[{number(both[0], signed)}, {number(both[1], signed)}]" if both else ""


def set_number(value: float | None, signed: bool = False) -> str:
    """`number` as it is set on a page: a minus sign as wide as a plus sign."""
    return number(value, signed).replace("-", "\N{MINUS SIGN}")


def set_ends(both: tuple[float, float] | None, signed: bool = False) -> str:
    """`ends` likewise."""
    return ends(both, signed).replace("-", "\N{MINUS SIGN}")


def small(value: float) -> str:
    """A measured difference: 0, plain digits, or a power of ten where it is tiny."""
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"


def duration(seconds: float) -> Said:
    """As a person would say it: 48 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return Said(f"{seconds:.3g} s", f"{seconds:.3g} 秒")
    minutes = round(seconds / 60)
    if minutes < 60:
        return Said(f"{minutes} min", f"{minutes} 分钟")
    hours, rest = divmod(minutes, 60)
    return Said(f"{hours} h {rest} min", f"{hours} 小时 {rest} 分钟")


def visible(text: object) -> str:
    """Text of others: what is not seen (controls, directions, zero width, surrogates) as ⟨U+200B⟩; lines and tabs stay."""
    return "".join(f"⟨U+{ord(c):04X}⟩" if _hidden(c) else c for c in str(text))


def _hidden(character: str) -> bool:
    kind = unicodedata.category(character)
    return (kind[0] == "C" and character not in "\n\t") or kind in ("Zl", "Zp")
