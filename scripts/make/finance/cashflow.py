"""NPV and IRR sums in English and Chinese.

Answers come from the PyPI package `numpy-financial`; every one is worked out a second time here (exact fractions for
NPV, bisection for IRR) and the script stops when the two disagree. The difficulty is meant for a small model and is
no more than that of a textbook: two to four years, whole-number rates, amounts that are multiples of ten.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy_financial as npf

ROWS, SEED = 1200, 17  # figures do not repeat, so there is an end to them
KINDS = (("en", "npv"), ("zh", "npv"), ("en", "irr"), ("zh", "irr"))  # rows take turns, so the kinds are even
DISCOUNT_RATES = (5, 6, 8, 10, 12, 15, 20)  # percent
TRIAL_RATES = (5, 10, 15, 20, 25)  # percent: an IRR is found between two neighbours
AMOUNTS = range(20, 130, 10)  # of one year
YEARS = {"npv": (2, 3, 4), "irr": (2, 3)}  # an IRR is worked at two rates, so four years would be too long an answer
PHRASINGS = 4  # wordings that the data template has for each language and task
LEAST_NPV = 1  # below this a relative tolerance has no meaning
MOST_FRUITLESS = 10_000  # draws in a row without a new case
TIE = Fraction(1, 10**6)  # a value this close to a rounding tie is not used
MONEY = {
    "en": (("USD", "thousand"), ("USD", "million"), ("EUR", "thousand"), ("GBP", "thousand")),
    "zh": (("CNY", "万"), ("CNY", "万"), ("HKD", "万"), ("USD", "万")),
}
PROJECTS = {
    "en": (
        "Rooftop solar for the Leeds depot", "Harbour crane overhaul", "Copper leach pad extension",
        "Cold store in Rotterdam", "Tablet press line 3", "Bus fleet electrification", "Warehouse automation",
        "Dairy packing line", "Biogas plant at Elm Farm", "Hotel refurbishment", "Mine ventilation upgrade",
        "Vineyard irrigation", "Data hall cooling retrofit", "Clinic MRI scanner", "Quarry conveyor replacement",
        "Wind turbine repowering", "Vaccine filling suite", "Payments app relaunch", "Toll bridge resurfacing",
        "Sawmill kiln upgrade", "Weather radar lease", "Battery storage pilot", "Fish farm expansion",
        "Airport parking deck",
    ),
    "zh": (
        "屋顶光伏改造", "港口起重机大修", "铜矿堆浸场扩建", "冷链仓库", "片剂生产线", "公交电动化", "立体仓库自动化",
        "乳品包装线", "沼气发电站", "酒店翻新", "矿井通风改造", "葡萄园滴灌", "机房制冷改造", "核磁共振设备",
        "采石场输送带更换", "风机技改", "疫苗灌装车间", "支付应用改版", "收费桥梁养护", "木材干燥窑", "气象雷达租赁",
        "储能示范站", "水产养殖扩建", "停车楼建设",
    ),
}  # fmt: skip


def present_values(flows: Sequence[int], rate_pct: int) -> list[Fraction]:
    """Each year-end flow discounted to today, exactly."""
    growth = 1 + Fraction(rate_pct, 100)
    return [flow / growth**year for year, flow in enumerate(flows, 1)]


def hundredths(value: Fraction) -> int | None:
    """The value in whole hundredths, or None too near a tie to be rounded beyond doubt."""
    to_tie = abs(value * 100 - math.floor(value * 100) - Fraction(1, 2)) / 100
    return None if to_tie <= TIE else round(value * 100)


def ledger(outlay: int, flows: Sequence[int], rate_pct: int) -> tuple[list[float], list[float]] | None:
    """Rounded present values and the running balance after each.

    None where the rounded terms do not add up to the rounded net present value: a worked answer must be right line by
    line, and about three draws in ten are not.
    """
    exact = present_values(flows, rate_pct)
    terms = [hundredths(value) for value in exact]
    known = [term for term in terms if term is not None]
    balances = list(accumulate(known, initial=-100 * outlay))[1:]
    if len(known) < len(terms) or balances[-1] != hundredths(sum(exact) - outlay):
        return None
    return [term / 100 for term in known], [balance / 100 for balance in balances]


def net_present_value(outlay: int, flows: Sequence[int], rate_pct: int) -> float:
    """By numpy-financial; stops the script when exact fractions say otherwise."""
    value = float(npf.npv(rate_pct / 100, [-outlay, *flows]))
    own = float(sum(present_values(flows, rate_pct)) - outlay)
    if not math.isclose(value, own, abs_tol=1e-9):
        raise SystemExit(f"NPV of {-outlay}, {flows} at {rate_pct}%: numpy-financial {value}, exact {own}")
    return value


def internal_rate(outlay: int, flows: Sequence[int]) -> float | None:
    """In percent, by numpy-financial; None where none or several may exist, or it is outside the trial rates.

    Stops the script when bisection says otherwise or the net present value at that rate is not zero.
    """
    values = [-outlay, *flows]
    if sum(before * after < 0 for before, after in pairwise(values)) != 1:  # Descartes: one sign change, one rate
        return None

    def balance(rate: float) -> float:
        return sum(value / (1 + rate) ** year for year, value in enumerate(values))

    low, high = TRIAL_RATES[0] / 100, TRIAL_RATES[-1] / 100
    if not balance(low) > 0 > balance(high):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if balance(middle) > 0 else (low, middle)
    rate = float(npf.irr(values))
    if not math.isclose(rate, low, abs_tol=1e-10) or not math.isclose(balance(rate), 0, abs_tol=1e-8):
        raise SystemExit(f"IRR of {values}: numpy-financial {rate}, bisection {low}, NPV there {balance(rate)}")
    return 100 * rate


def solve(outlay: int, flows: Sequence[int], discount_rate: int | None) -> tuple[float, list[int]] | None:
    """The unrounded answer and the rates that its steps work at; None where there is none fit for a sum."""
    if discount_rate is not None:
        value = net_present_value(outlay, flows, discount_rate)
        return None if abs(value) < LEAST_NPV else (value, [discount_rate])
    rate = internal_rate(outlay, flows)
    around = [list(pair) for pair in pairwise(TRIAL_RATES) if rate is not None and pair[0] < rate < pair[1]]
    return None if rate is None or not around else (rate, around[0])


def draw(random_: random.Random, language: str, task: str) -> dict | None:
    """One case without its id; None where the figures drawn have no clean answer."""
    flows = random_.choices(AMOUNTS, k=random_.choice(YEARS[task]))
    outlay = 10 * random_.randint(math.ceil(0.06 * sum(flows)), math.floor(0.1 * sum(flows)))
    discount_rate = random_.choice(DISCOUNT_RATES) if task == "npv" else None
    solved = solve(outlay, flows, discount_rate)
    if solved is None:
        return None
    value, rates = solved
    answer = hundredths(Fraction(value))
    ledgers = [found for rate in rates if (found := ledger(outlay, flows, rate)) is not None]
    if answer is None or len(ledgers) < len(rates):
        return None
    ends = [balances[-1] for _, balances in ledgers]
    if task == "npv" and ends != [answer / 100]:
        raise SystemExit(
            f"NPV of {-outlay}, {flows} at {rates}%: the steps end at {ends}, the answer is {answer / 100}"
        )
    if task == "irr" and not ends[0] > 0 > ends[1]:  # a trial rate that is the answer itself, but for rounding
        return None
    currency, scale = random_.choice(MONEY[language])
    size = math.gcd(outlay, *flows)
    return {
        "language": language,
        "task": task,
        "project": random_.choice(PROJECTS[language]),
        "initial_outlay": outlay,
        "cash_flows": flows,
        "discount_rate_pct": None if discount_rate is None else float(discount_rate),
        "currency": currency,
        "scale": scale,
        "phrasing": random_.randrange(PHRASINGS),
        # The same figures in another size are the same sum: they must not fall on both sides of a split.
        "profile": ":".join(str(part) for part in (discount_rate or task, outlay // size, *(f // size for f in flows))),
        "rates_pct": [float(rate) for rate in rates],
        "present_values": [terms for terms, _ in ledgers],
        "balances": [balances for _, balances in ledgers],
        "answer": answer / 100,
    }


def make(rows: int, seed: int) -> list[dict]:
    """Cases whose figures all differ, whatever the language and the project's name."""
    random_ = random.Random(seed)
    made: list[dict] = []
    seen: set[tuple] = set()
    fruitless = 0
    while len(made) < rows:
        case = draw(random_, *KINDS[len(made) % len(KINDS)])
        figures = case and (case["discount_rate_pct"], case["initial_outlay"], *case["cash_flows"])
        if case is None or figures in seen:
            fruitless += 1
            if fruitless > MOST_FRUITLESS:
                raise SystemExit(f"--rows {rows}: no new figures after {len(made)} rows; ask for fewer")
            continue
        fruitless = 0
        seen.add(figures)
        made.append({"case_id": f"CF-{len(made) + 1:04}"} | case)
    return made
