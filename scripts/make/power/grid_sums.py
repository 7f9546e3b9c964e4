"""Everyday sums of a distribution grid, in English and Chinese: loss rate, power factor, current, load rate and so on.

Worked in decimals of 40 digits. A case is kept only where the shown, rounded steps lead to the same rounded result as the
exact figures do, and no result is near a rounding tie.
"""

from __future__ import annotations

import decimal
import random
from collections.abc import Callable
from decimal import Decimal

from scripts.make.cases import Row, distinct
from scripts.make.power.grid_words import FEEDERS, NAMES, QUESTIONS

ROWS, SEED = 1200, 17
PRECISION = decimal.Context(prec=40)
TIE = Decimal("1e-6")  # of the last digit kept
Step = tuple[str, Decimal, int, str]  # key of NAMES, exact value, decimals shown, unit
Case = tuple[dict[str, Decimal], list[Step], Decimal]  # figures, steps, the result worked from the rounded steps


def rounded(value: Decimal, digits: int) -> Decimal | None:
    """To so many decimals, or None too near a tie."""
    scaled = abs(value).scaleb(digits)
    return None if abs(scaled % 1 - Decimal("0.5")) < TIE else value.quantize(Decimal(1).scaleb(-digits))


def shown(value: Decimal, digits: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-digits))


def loss_rate(rng: random.Random) -> Case:
    """(supplied - sold) / supplied."""
    supplied = Decimal(10 * rng.randint(500, 9999))
    sold = supplied - Decimal(rng.randint(int(supplied) // 100, int(supplied) // 12))
    lost = supplied - sold
    rate = 100 * lost / supplied
    return {"supplied": supplied, "sold": sold}, [("lost", lost, 0, "kWh"), ("loss_rate", rate, 2, "%")], rate


def power_factor(rng: random.Random) -> Case:
    """Of a month, from the meter's active and reactive energy: P / sqrt(P² + Q²)."""
    active = Decimal(10 * rng.randint(100, 999))
    reactive = Decimal(int(active) * rng.randint(15, 95) // 1000 * 10)
    apparent = (active**2 + reactive**2).sqrt()
    steps: list[Step] = [("apparent_energy", apparent, 0, "kVAh"), ("power_factor", active / apparent, 2, "")]
    return {"active": active, "reactive": reactive}, steps, active / shown(apparent, 0)


def current(rng: random.Random) -> Case:
    """Of a balanced three-phase load: P / (√3 U cos φ)."""
    volts = Decimal(rng.choice(("0.38", "10", "35")))
    power = Decimal(rng.randint(20, 300) if volts < 1 else 10 * rng.randint(20, 900))
    factor = Decimal(rng.randint(80, 98)) / 100
    apparent = power / factor
    amperes = apparent / (Decimal(3).sqrt() * volts)
    steps: list[Step] = [("apparent", apparent, 1, "kVA"), ("current", amperes, 1, "A")]
    return {"volts": volts, "power": power, "factor": factor}, steps, shown(apparent, 1) / (Decimal(3).sqrt() * volts)


def load_rate(rng: random.Random) -> Case:
    """Of a transformer: P / cos φ over its rating."""
    rating = Decimal(rng.choice((100, 200, 315, 400, 500, 630, 800, 1000, 1250, 1600)))
    factor = Decimal(rng.randint(82, 98)) / 100
    power = Decimal(int(rating * factor * rng.randint(20, 115) / 100))
    apparent = power / factor
    steps: list[Step] = [("apparent", apparent, 1, "kVA"), ("load_rate", 100 * apparent / rating, 1, "%")]
    return {"rating": rating, "power": power, "factor": factor}, steps, 100 * shown(apparent, 1) / rating


def voltage_deviation(rng: random.Random) -> Case:
    """(measured - nominal) / nominal, with its sign."""
    nominal = Decimal(rng.choice((220, 380, 10000, 35000)))
    measured = nominal + Decimal(rng.choice((1, -1)) * rng.randint(1, 119) * int(nominal) // 1000)
    off = measured - nominal
    steps: list[Step] = [("difference", off, 0, "V"), ("deviation", 100 * off / nominal, 2, "%")]
    return {"nominal": nominal, "measured": measured}, steps, 100 * off / nominal


def unbalance(rng: random.Random) -> Case:
    """(largest - smallest) / largest of three phase currents, which the question says."""
    a, b, c = (Decimal(rng.randint(60, 400)) for _ in range(3))
    span = max(a, b, c) - min(a, b, c)
    rate = 100 * span / max(a, b, c)
    return {"a": a, "b": b, "c": c}, [("span", span, 0, "A"), ("unbalance", rate, 1, "%")], rate


def compensation(rng: random.Random) -> Case:
    """Capacitors that bring cos φ from one value to another: P (tan φ1 - tan φ2)."""
    power = Decimal(10 * rng.randint(10, 300))
    before, after = Decimal(rng.randint(65, 85)) / 100, Decimal(rng.randint(90, 98)) / 100
    tangents = [(1 - factor**2).sqrt() / factor for factor in (before, after)]
    worth = power * (tangents[0] - tangents[1])
    steps: list[Step] = [("tan_before", tangents[0], 3, ""), ("tan_after", tangents[1], 3, ""),
                         ("capacitors", worth, 0, "kvar")]  # fmt: skip
    from_steps = power * (shown(tangents[0], 3) - shown(tangents[1], 3))
    return {"power": power, "before": before, "after": after}, steps, from_steps


SUMS: dict[str, Callable[[random.Random], Case]] = {
    "loss_rate": loss_rate,
    "power_factor": power_factor,
    "current": current,
    "load_rate": load_rate,
    "voltage_deviation": voltage_deviation,
    "unbalance": unbalance,
    "compensation": compensation,
}


def drawn(rng: random.Random, language: str) -> Row:
    """A case whose steps hold line by line."""
    kind = rng.choice(tuple(SUMS))
    while True:
        figures, steps, from_steps = SUMS[kind](rng)
        values = [rounded(value, digits) for _, value, digits, _ in steps]
        if None not in values and rounded(from_steps, steps[-1][2]) == values[-1]:
            break
    told = {name: f"{value.normalize():f}" for name, value in figures.items()}
    names = [NAMES[language][key] for key, *_ in steps]
    units = [unit for *_, unit in steps]
    lines = [f"{name}: {value} {unit}".rstrip() for name, value, unit in zip(names, values, units, strict=True)]
    return {
        "kind": kind,
        "question": rng.choice(QUESTIONS[language][kind]).format(name=rng.choice(FEEDERS[language]), **told),
        "working": lines[:-1],
        "result": lines[-1],
        "figures": ":".join((kind, *told.values())),
    }


def make(rows: int, seed: int) -> list[Row]:
    with decimal.localcontext(PRECISION):
        return distinct(drawn, rows, seed)
