"""Doses by weight, volumes, infusion and drop rates, dilutions and units of made-up drugs, each exact to three decimals.

Every step is worked out in fractions and written as a product or a quotient of two numbers; a case whose steps need more
decimals is drawn again. Drugs are made up and so are their doses: none may be given to anybody.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from scripts.make.pharma.names import drug, zh_drug

ROWS, SEED = 1120, 17
MOST_FRUITLESS = 10_000
F = Fraction
# What one of a unit is of the other; 1 IU of a made-up hormone is so many µg as the case says.
UNITS = (("g", "mg", F(1000)), ("mg", "µg", F(1000)), ("mg", "g", F(1, 1000)), ("µg", "mg", F(1, 1000)),
         ("L", "mL", F(1000)), ("mL", "L", F(1, 1000)))  # fmt: skip


class Steps:
    """A working: `12 × 15 = 180` after `180 ÷ 3 = 60`. Raises ValueError where a number needs over three decimals."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def times(self, left: Fraction, right: Fraction) -> Fraction:
        self.lines.append(f"{written(left)} × {written(right)} = {written(left * right)}")
        return left * right

    def over(self, left: Fraction, right: Fraction) -> Fraction:
        self.lines.append(f"{written(left)} ÷ {written(right)} = {written(left / right)}")
        return left / right


def written(value: Fraction) -> str:
    """In decimals, without zeros at the end."""
    if (value * 1000).denominator != 1:
        raise ValueError("over three decimals")
    return f"{float(value):.3f}".rstrip("0").rstrip(".")


def within(value: Fraction, least: Fraction, most: Fraction) -> Fraction:
    """The value, if it is one that occurs at a bedside."""
    if not least <= value <= most:
        raise ValueError("not at a bedside")
    return value


def weight_dose(rng: random.Random, steps: Steps) -> dict:
    """A single dose by weight, never above the most allowed."""
    weight, per_kg = F(rng.randint(16, 180), 2), F(rng.choice([1, 2, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50]), 2)
    most = F(rng.choice([100, 200, 250, 300, 400, 500, 600, 800, 1000]))
    dose = steps.times(weight, per_kg)
    if dose > most:
        steps.lines.append(f"{written(dose)} > {written(most)}")
    return {"weight_kg": weight, "mg_per_kg": per_kg, "most_mg": most, "answer": min(dose, most), "unit": "mg"}


def divided_dose(rng: random.Random, steps: Steps) -> dict:
    """A day's dose by weight in equal parts."""
    weight, parts = F(rng.randint(3, 90)), F(rng.choice([2, 3, 4]))
    per_kg = F(rng.choice([5, 10, 15, 20, 30, 40, 45, 50, 60, 75, 80, 90]))
    dose = steps.over(steps.times(weight, per_kg), parts)
    return {"weight_kg": weight, "mg_per_kg": per_kg, "doses_a_day": parts, "answer": dose, "unit": "mg"}


def volume(rng: random.Random, steps: Steps) -> dict:
    """Millilitres that hold a dose."""
    dose, strength = (
        F(rng.randint(1, 200) * 5),
        F(rng.choice([2, 4, 5, 8, 10, 12, 16, 20, 25, 40, 50, 80, 100, 125, 250])),
    )
    answer = within(steps.over(dose, strength), F(1, 5), F(50))
    return {"dose_mg": dose, "mg_per_ml": strength, "answer": answer, "unit": "mL"}


def pump_rate(rng: random.Random, steps: Steps) -> dict:
    """Millilitres an hour from micrograms per kilogram and minute."""
    rate, weight = F(rng.randint(1, 40), 4), F(rng.randint(20, 110))
    amount, bag = F(rng.choice([50, 100, 200, 250, 400, 500])), F(rng.choice([50, 100, 250, 500]))
    an_hour = steps.times(steps.times(rate, weight), F(60))
    mg = steps.over(an_hour, F(1000))
    answer = within(steps.over(mg, steps.over(amount, bag)), F(1, 2), F(250))
    found = {"ug_per_kg_min": rate, "weight_kg": weight, "dose_mg": amount, "volume_ml": bag}
    return found | {"answer": answer, "unit": "mL/h"}


def drop_rate(rng: random.Random, steps: Steps) -> dict:
    """Drops a minute of an infusion."""
    bag, hours, drops = F(rng.randint(2, 40) * 25), F(rng.randint(1, 24), 2), F(rng.choice([10, 15, 20, 60]))
    answer = within(steps.over(steps.times(bag, drops), steps.times(hours, F(60))), F(5), F(120))
    if answer.denominator != 1:
        raise ValueError("no whole drops")
    return {"volume_ml": bag, "hours": hours, "drops_per_ml": drops, "answer": answer, "unit": "drops/min"}


def dilution(rng: random.Random, steps: Steps) -> dict:
    """Millilitres of a stock solution for a volume of a weaker one."""
    wanted, bottle = F(rng.randint(1, 40), 4), F(rng.choice([50, 100, 200, 250, 400, 500, 1000]))
    stock = F(rng.choice([10, 15, 20, 25, 30, 40, 50, 70]))
    answer = steps.over(steps.times(bottle, wanted), stock)
    if not wanted < stock:
        raise ValueError("no dilution")
    return {"volume_ml": bottle, "wanted_pct": wanted, "stock_pct": stock, "answer": answer, "unit": "mL"}


def conversion(rng: random.Random, steps: Steps) -> dict:
    """An amount in another unit; of IU, by the micrograms of one."""
    if rng.random() < 0.3:
        amount, per_iu = F(rng.randint(1, 120) * 5), F(rng.choice([1, 2, 5, 8, 25, 30, 34, 50]), 1000)
        asked = {"amount": amount, "from_unit": "IU", "ug_per_iu": per_iu}
        return asked | {"answer": steps.times(amount, per_iu), "unit": "µg"}
    source, target, factor = rng.choice(UNITS)
    amount = F(rng.randint(1, 400), rng.choice([20, 40, 100])) * (1 if factor > 1 else 500)
    asked = {"amount": amount, "from_unit": source, "ug_per_iu": None}
    answer = steps.times(amount, factor) if factor > 1 else steps.over(amount, 1 / factor)
    return asked | {"answer": answer, "unit": target}


KINDS: tuple[Callable[[random.Random, Steps], dict], ...] = (
    weight_dose, divided_dose, volume, pump_rate, drop_rate, dilution, conversion,
)  # fmt: skip
FIGURES = ("weight_kg", "mg_per_kg", "most_mg", "doses_a_day", "dose_mg", "mg_per_ml", "ug_per_kg_min", "volume_ml",
           "hours", "drops_per_ml", "wanted_pct", "stock_pct", "amount", "from_unit", "ug_per_iu")  # fmt: skip


def make(rows: int, seed: int) -> list[dict]:
    """Kinds and languages take turns; no two rows have the same figures."""
    rng = random.Random(f"dose arithmetic {seed}")
    made: dict[str, dict] = {}
    fruitless = 0
    while len(made) < rows:
        row = drawn(rng, KINDS[len(made) % len(KINDS)], ("en", "zh")[len(made) // len(KINDS) % 2])
        if row is None or row["figures"] in made:
            fruitless += 1
            if fruitless == MOST_FRUITLESS:
                raise SystemExit(f"--rows {rows}: no new figures after {len(made)} rows; ask for fewer")
            continue
        fruitless = 0
        made[row["figures"]] = row
    return list(made.values())


def drawn(rng: random.Random, kind: Callable[[random.Random, Steps], dict], language: str) -> dict[str, Any] | None:
    """One case; None where a step has no short decimals."""
    steps = Steps()
    try:
        case = kind(rng, steps)
    except ValueError:
        return None
    case = {name: float(value) if isinstance(value, Fraction) else value for name, value in case.items()}
    said = [case.get(name) for name in FIGURES]
    return {
        "language": language,
        "kind": kind.__name__,
        "figures": ":".join([kind.__name__, *(f"{value}" for value in said if value is not None)]),
        "drug": drug(rng) if language == "en" else zh_drug(rng),
        **{name: value for name, value in zip(FIGURES, said, strict=True) if value is not None},
        "steps": steps.lines,
        "answer": case["answer"],
        "unit": case["unit"],
    }
