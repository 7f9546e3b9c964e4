"""Sums of coal washing: yields of two and three products, feed ash, tonnes, efficiency, sharpness; Chinese and English.

Balances are those of any text on coal preparation: yields add up to 100 %, and so does the ash they carry to the feed's.
Organic efficiency (数量效率) is actual over theoretical yield at the same ash (GB/T 15715). Probable error (可能偏差) is half the
difference of the densities at which 75 % and 25 % go to the heavy product; imperfection (不完善度) of a jig is that over the cut
density less 1. Only figures are used whose answer and every step are exact: no rounding is asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

from scripts.make.cases import distinct

ROWS, SEED = 1200, 47
Numbers = dict[str, Fraction]


def text_of(value: Fraction | int) -> str:
    """A number that a finite decimal writes."""
    return f"{float(value):.10f}".rstrip("0").rstrip(".")


def neat(value: Fraction, decimals: int = 1) -> bool:
    """Exact with so many decimals."""
    return (value * 10**decimals).denominator == 1


def ashes(rng: random.Random) -> Numbers:
    """Of clean coal, feed, middlings and refuse, in percent."""
    return {
        "clean": Fraction(rng.randint(12, 28), 2),
        "feed": Fraction(rng.randint(16, 40)),
        "middlings": Fraction(rng.randint(25, 45)),
        "refuse": Fraction(rng.randint(55, 85)),
    }


def two_products(ash: Numbers, rng: random.Random) -> tuple[Numbers, list[str], Fraction] | None:
    """Yield of clean coal = 100 (refuse - feed) / (refuse - clean)."""
    clean, feed, refuse = ash["clean"], ash["feed"], ash["refuse"]
    share = (refuse - feed) / (refuse - clean)
    if not clean < feed < refuse or not neat(100 * share):
        return None
    steps = [
        f"{text_of(refuse)} - {text_of(feed)} = {text_of(refuse - feed)}",
        f"{text_of(refuse)} - {text_of(clean)} = {text_of(refuse - clean)}",
        f"{text_of(refuse - feed)} / {text_of(refuse - clean)} = {text_of(share)}",
    ]
    return {"clean_ash": clean, "feed_ash": feed, "refuse_ash": refuse}, steps, 100 * share


def three_products(ash: Numbers, rng: random.Random) -> tuple[Numbers, list[str], Fraction] | None:
    """The refuse's yield is known: clean coal = (middlings x rest - ash in the rest) / (middlings - clean)."""
    clean, feed, middlings, refuse = ash["clean"], ash["feed"], ash["middlings"], ash["refuse"]
    out = Fraction(5 * rng.randint(2, 6))
    rest, left = 100 - out, 100 * feed - out * refuse
    found = (middlings * rest - left) / (middlings - clean)
    if not clean < feed or rest - found < 5 or found < 20 or not neat(found):
        return None
    steps = [
        f"100 - {text_of(out)} = {text_of(rest)}",
        f"100 * {text_of(feed)} - {text_of(out)} * {text_of(refuse)} = {text_of(left)}",
        f"{text_of(middlings)} * {text_of(rest)} - {text_of(left)} = {text_of(middlings * rest - left)}",
        f"{text_of(middlings * rest - left)} / ({text_of(middlings)} - {text_of(clean)}) = {text_of(found)}",
    ]
    given = {
        "clean_ash": clean,
        "feed_ash": feed,
        "middlings_ash": middlings,
        "refuse_ash": refuse,
        "refuse_yield": out,
    }
    return given, steps, found


def feed_ash(ash: Numbers, rng: random.Random) -> tuple[Numbers, list[str], Fraction] | None:
    """Ash of the feed from yields and ashes of three products."""
    clean_yield, out = Fraction(5 * rng.randint(10, 15)), Fraction(5 * rng.randint(1, 4))
    parts = [(clean_yield, ash["clean"]), (100 - clean_yield - out, ash["middlings"]), (out, ash["refuse"])]
    carried = [share * own for share, own in parts]
    found = sum(carried, Fraction(0)) / 100
    if parts[1][0] < 5 or not neat(found, 2):
        return None
    steps = [f"{text_of(share)} * {text_of(own)} = {text_of(share * own)}" for share, own in parts]
    steps += [
        f"{' + '.join(map(text_of, carried))} = {text_of(100 * found)}",
        f"{text_of(100 * found)} / 100 = {text_of(found)}",
    ]
    given = {"clean_ash": ash["clean"], "middlings_ash": ash["middlings"], "refuse_ash": ash["refuse"]}
    return given | {"clean_yield": clean_yield, "refuse_yield": out}, steps, found


def tonnes(ash: Numbers, rng: random.Random) -> tuple[Numbers, list[str], Fraction] | None:
    """Tonnes of clean coal out of a feed."""
    fed, share = Fraction(50 * rng.randint(4, 80)), Fraction(rng.randint(50, 90))
    found = fed * share / 100
    return {"feed_t": fed, "clean_yield": share}, [f"{text_of(fed)} * {text_of(share / 100)} = {text_of(found)}"], found


def efficiency(ash: Numbers, rng: random.Random) -> tuple[Numbers, list[str], Fraction] | None:
    """Actual over theoretical yield."""
    actual, theory = Fraction(rng.randint(90, 160), 2), Fraction(rng.randint(100, 170), 2)
    found = 100 * actual / theory
    if not 80 <= found < 100 or not neat(found):
        return None
    given = {"clean_yield": actual, "theoretical_yield": theory, "clean_ash": ash["clean"]}
    return given, [f"{text_of(actual)} / {text_of(theory)} = {text_of(found / 100)}"], found


def sharpness(rng: random.Random) -> tuple[Numbers, list[str], Fraction]:
    """Half the difference of two densities, with the densities."""
    cut, half = Fraction(rng.randint(135, 190), 100), Fraction(rng.randint(2, 16), 200)
    light, heavy = cut - half, cut + half
    gap = f"{text_of(heavy)} - {text_of(light)} = {text_of(heavy - light)}"
    given = {"density_25": light, "density_75": heavy}
    return given, [gap, f"{text_of(heavy - light)} / 2 = {text_of(half)}"], half


def probable_error(ash: Numbers, rng: random.Random) -> tuple[Numbers, list[str], Fraction] | None:
    return sharpness(rng)


def imperfection(ash: Numbers, rng: random.Random) -> tuple[Numbers, list[str], Fraction] | None:
    """Probable error over cut density less that of water."""
    given, steps, error = sharpness(rng)
    cut = Fraction(rng.choice((140, 145, 150, 160, 165, 170, 180)), 100)
    found = error / (cut - 1)
    if not given["density_25"] < cut < given["density_75"] or not neat(found, 4):
        return None
    steps += [f"{text_of(cut)} - 1 = {text_of(cut - 1)}", f"{text_of(error)} / {text_of(cut - 1)} = {text_of(found)}"]
    return given | {"cut_density": cut}, steps, found


KINDS: tuple[Callable[[Numbers, random.Random], tuple[Numbers, list[str], Fraction] | None], ...] = (
    two_products, two_products, three_products, feed_ash, tonnes, efficiency, probable_error, imperfection,
)  # fmt: skip
GIVEN = (
    "feed_ash", "clean_ash", "middlings_ash", "refuse_ash", "clean_yield", "refuse_yield", "theoretical_yield", "feed_t",
    "density_25", "density_75", "cut_density",
)  # fmt: skip


def washing(rng: random.Random, language: str) -> dict:
    """One sum; draws again until its answer is neat."""
    kind = rng.choice(KINDS)
    while (found := kind(ashes(rng), rng)) is None:
        continue
    given, steps, answer = found
    return {
        "kind": kind.__name__,
        **{name: float(given[name]) if name in given else None for name in GIVEN},
        "steps": steps,
        "answer": float(answer),
        "figures": f"{kind.__name__} {' '.join(text_of(given[name]) for name in GIVEN if name in given)}",
    }


def make(rows: int, seed: int) -> list[dict]:
    return distinct(washing, rows, seed)
