"""Sums on loans, interest by days, depreciation and dated cash flows, English and Chinese, each with its working.

Results are exact fractions, or 40-digit decimals where a power is taken, rounded to two decimals; near ties are not used.
Formulas: level payment P r / (1 - (1 + r)^-n); equal principal P/n + (P - (k - 1) P/n) r in month k; depreciation of IAS 16.62,
straight-line and double declining balance; two dated flows a year of 365 days apart, (F/P)^(365/days) - 1, as XIRR has it.
"""

from __future__ import annotations

import datetime as dt
import random
from decimal import Context, Decimal
from fractions import Fraction

from scripts.make.cases import Row

ROWS, SEED = 1050, 17
EXACT = Context(prec=40)
Sum = tuple[str, str, str, Fraction, str, dict]  # English, Chinese, working, value, unit, figures


def pct(value: Fraction) -> str:
    """`4.35%`, without zeros at the end."""
    return f"{float(value * 100):.10g}%"


def power(base: Fraction, exponent: Fraction) -> Fraction:
    one, other = (Decimal(part.numerator) / Decimal(part.denominator) for part in (base, exponent))
    return Fraction(EXACT.power(one, other))


def level_payment(rng: random.Random) -> Sum:
    amount, rate, months = (
        rng.randint(1, 90) * 1000,
        Fraction(rng.randint(6, 24), 2400),
        rng.choice((6, 12, 18, 24, 36)),
    )
    growth = (1 + rate) ** months
    payment = amount * rate * growth / (growth - 1)
    return (
        f"A loan of {amount} is repaid in {months} equal monthly payments, at {pct(rate)} a month. Each payment?",
        f"贷款{amount}，月利率{pct(rate)}，分{months}期等额本息，每期还多少？",
        f"(1+{pct(rate)})^{months} = {float(growth):.6f}; {amount}*{pct(rate)}*{float(growth):.6f}/{float(growth - 1):.6f}",
        payment, "", {"amount": amount, "rate": float(rate), "months": months},
    )  # fmt: skip


def equal_principal(rng: random.Random) -> Sum:
    months = rng.choice((10, 12, 20, 24))
    part, rate = rng.randint(2, 60) * 100, Fraction(rng.randint(20, 60), 10_000)
    amount, at = part * months, rng.randint(1, months)
    left = amount - part * (at - 1)
    return (
        f"A loan of {amount}, {months} months, equal principal each month, {pct(rate)} a month. Payment of month {at}?",
        f"贷款{amount}，月利率{pct(rate)}，分{months}期等额本金，第{at}期还多少？",
        f"{amount}/{months} = {part}; {amount} - {at - 1}*{part} = {left}; {part} + {left}*{pct(rate)}",
        part + left * rate, "", {"amount": amount, "rate": float(rate), "months": months, "month": at},
    )  # fmt: skip


def day_interest(rng: random.Random) -> Sum:
    amount, rate = rng.randint(1, 200) * 500, Fraction(rng.randint(120, 690), 10_000)
    start = dt.date(rng.randint(2018, 2024), rng.randint(1, 12), rng.randint(1, 28))
    end = start + dt.timedelta(rng.randint(15, 300))
    end = end.replace(day=min(end.day, 28))  # so that every 30/360 rule counts the same
    basis = rng.choice(("act/360", "act/365", "30/360"))
    years, months, days = end.year - start.year, end.month - start.month, end.day - start.day
    count = (end - start).days if basis.startswith("act") else 360 * years + 30 * months + days
    year = int(basis[-3:])
    return (
        f"{amount} at {pct(rate)} a year from {start} to {end}, {basis}, simple interest. Interest?",
        f"本金{amount}，年利率{pct(rate)}，{start}至{end}，按{basis}计单利，利息多少？",
        f"days = {count}; {amount}*{pct(rate)}*{count}/{year}",
        amount * rate * count / year, "",
        {"amount": amount, "rate": float(rate), "start": str(start), "end": str(end), "basis": basis},
    )  # fmt: skip


def straight_line(rng: random.Random) -> Sum:
    life = rng.choice((4, 5, 8, 10))
    cost = rng.randint(20, 900) * 100
    rest, at = rng.randint(0, cost // 1000) * 100, rng.randint(1, life)
    yearly = Fraction(cost - rest, life)
    return (
        f"An asset of {cost} lasts {life} years, residual value {rest}, straight-line. Carrying amount after year {at}?",
        f"资产原值{cost}，预计使用{life}年，净残值{rest}，年限平均法，第{at}年末账面价值？",
        f"({cost}-{rest})/{life} = {float(yearly):.10g}; {cost} - {at}*{float(yearly):.10g}",
        cost - at * yearly, "", {"cost": cost, "residual": rest, "life": life, "year": at},
    )  # fmt: skip


def declining(rng: random.Random) -> Sum:
    life, cost = rng.choice((4, 5, 8, 10)), rng.randint(20, 900) * 100
    at = rng.randint(1, min(3, life - 3)) if life > 4 else rng.randint(1, 2)
    rate = Fraction(2, life)
    values = [cost * (1 - rate) ** year for year in range(at + 1)]
    return (
        f"An asset of {cost} lasts {life} years, double declining balance. Depreciation of year {at}?",
        f"资产原值{cost}，预计使用{life}年，双倍余额递减法，第{at}年折旧额？",
        f"2/{life} = {pct(rate)}; {', '.join(f'{float(value):.10g}' for value in values[:-1])}; "
        f"{float(values[-2]):.10g}*{pct(rate)}",
        values[-2] * rate, "", {"cost": cost, "life": life, "year": at},
    )  # fmt: skip


def two_dates(rng: random.Random) -> Sum:
    paid = rng.randint(10, 900) * 100
    back = paid + rng.randint(-paid // 2_000, paid // 400) * 100
    start = dt.date(rng.randint(2015, 2022), rng.randint(1, 12), rng.randint(1, 28))
    days = rng.randint(120, 1_100)
    end = start + dt.timedelta(days)
    ratio = Fraction(back, paid)
    return (
        f"{paid} paid on {start}, {back} returned on {end}. XIRR, in percent?",
        f"{start}投入{paid}，{end}收回{back}，XIRR是百分之几？",
        f"days = {days}; {back}/{paid} = {float(ratio):.6f}; {float(ratio):.6f}^(365/{days}) - 1",
        (power(ratio, Fraction(365, days)) - 1) * 100, "%", {"paid": paid, "back": back, "start": str(start), "end": str(end)},
    )  # fmt: skip


KINDS = (level_payment, equal_principal, day_interest, straight_line, declining, two_dates)


def make(rows: int, seed: int) -> list[Row]:
    rng = random.Random(f"loan_sums {seed}")
    made: list[Row] = []
    seen: set[str] = set()
    while len(made) < rows:
        kind = KINDS[len(made) % len(KINDS)]
        english, chinese, working, value, unit, figures = kind(rng)
        beyond = abs(value) * 100
        if (
            english in seen
            or abs(beyond - int(beyond) - Fraction(1, 2)) < Fraction(1, 1000)
            or (unit and abs(value) < 1)
        ):
            continue
        seen.add(english)
        language = rng.choice(("en", "zh"))
        made.append(
            {
                "case_id": f"{len(made) + 1:05d}",
                "language": language,
                "kind": kind.__name__,
                "figures": figures,
                "question": english if language == "en" else chinese,
                "working": working,
                "result": f"{float(round(value, 2)):.2f}{unit}",
            }
        )
    return made
