"""Results of made-up companies as two or three sentences, Chinese and English, and the record that they come to.

Amounts are told in 亿元 or 万元, billion, million or thousand, and recorded in 万元 or million. What is not told is null.
"""

from __future__ import annotations

import random
from decimal import Decimal

from scripts.make.cases import Row, distinct

ROWS, SEED = 1050, 17
COMPANIES = {
    "zh": ("江岭股份", "恒川科技", "北辰药业", "云石水泥", "南麓物流", "青屿食品", "瑞泊能源", "沃原农业", "锦帆航运", "天枢仪器",
           "和畅环保", "明汐电子", "广陵机械", "岱岳矿业", "海蓝纺织"),
    "en": ("Aldermoor", "Brackwater", "Dunmere Foods", "Eastholm Steel", "Garrowby Energy", "Hartsea Lines", "Kelbrook",
           "Larkhill Pharma", "Mossgate", "Oakhurst Paper", "Pennant Rail", "Redfell Mining", "Stanmer Glass",
           "Thornbury Media", "Ullsmere Water"),
}  # fmt: skip
OTHERS = {
    "zh": (
        "研发投入{a}。", "期末员工{n}人。", "上年营业收入为{a}。", "经营活动现金流量净额{a}。", "资产负债率为{p}%。",
        "毛利率{p}%。",
    ),
    "en": (
        "It spent {a} on research.", "It had {n} employees.", "A year earlier revenue was {a}.",
        "Operating cash flow was {a}.", "Its gross margin was {p}%.", "Capital expenditure came to {a}.",
    ),
}  # fmt: skip


def make(rows: int, seed: int) -> list[Row]:
    return distinct(annual_report, rows, seed)


def amount(rng: random.Random, zh: bool, small: bool) -> tuple[str, Decimal]:
    """As told, and in 万元 or million."""
    if zh:
        if rng.random() < (0.3 if small else 0.7):
            told = Decimal(rng.randint(101, 9_999)) / 100
            return f"{told}亿元", told * 10_000
        whole = rng.randint(400, 99_000)
        return f"{whole:,}万元" if rng.random() < 0.5 else f"{whole}万元", Decimal(whole)
    unit = rng.choice(("thousand", "million") if small else ("million", "billion"))
    if unit == "thousand":
        whole = rng.randint(110, 990)
        return f"${whole} thousand", Decimal(whole) / 1000
    if unit == "million":
        told = Decimal(rng.randint(11, 9_990)) / 10
        return f"${told} million", told
    told = Decimal(rng.randint(101, 980)) / 100
    return f"${told} billion", told * 1000


def change(rng: random.Random, zh: bool) -> tuple[str, Decimal | None]:
    """How it moved since last year, as told, and in percent; told of three in four."""
    kind, size = rng.random(), Decimal(rng.randint(2, 480)) / 10
    if kind < 0.25:
        return "", None
    if kind < 0.32:
        return ("，与上年持平" if zh else ", unchanged from the year before"), Decimal(0)
    if kind < 0.68:
        return (f"，同比增长{size}%" if zh else f", up {size}%"), size
    return (f"，同比下降{size}%" if zh else f", down {size}%"), -size


def dividend(rng: random.Random, zh: bool) -> tuple[str, Decimal | None]:
    """Per share, in yuan or dollars."""
    kind = rng.random()
    if kind < 0.35:
        return "", None
    if kind < 0.5:
        return ("本年度不派发现金红利。" if zh else "No dividend is paid."), Decimal(0)
    told = Decimal(rng.randint(2, 160)) / 100
    return (f"每股派发现金红利{told}元。" if zh else f"The dividend is ${told} a share."), told


def plain(value: Decimal | None) -> int | float | None:
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)


def annual_report(rng: random.Random, language: str) -> Row:
    zh = language == "zh"
    company, year = rng.choice(COMPANIES[language]), rng.randint(2015, 2024)
    revenue_told, revenue = amount(rng, zh, small=False)
    profit_told, profit = amount(rng, zh, small=True)
    while profit >= revenue:
        profit_told, profit = amount(rng, zh, small=True)
    revenue_move, revenue_change = change(rng, zh)
    profit_move, profit_change = change(rng, zh)
    paid_told, paid = dividend(rng, zh)
    if rng.random() < 0.25:
        profit, profit_move, profit_change = -profit, "", None
    if zh:
        made = "净亏损" if profit < 0 else "净利润"
        first = f"{year}年，{company}实现营业收入{revenue_told}{revenue_move}；{made}{profit_told}{profit_move}。"
    else:
        made = "a net loss of" if profit < 0 else "net profit of"
        first = (
            f"In {year} {company} had revenue of {revenue_told}{revenue_move}, and {made} {profit_told}{profit_move}."
        )
    aside = rng.choice(OTHERS[language]).format(
        a=amount(rng, zh, small=False)[0], n=rng.randint(90, 9_000), p=rng.randint(150, 600) / 10
    )
    rest = [part for part in (aside, paid_told) if part]
    rng.shuffle(rest)
    return {
        "company": company,
        "text": ("" if zh else " ").join([first, *rest]),
        "report": {
            "year": year,
            "revenue": plain(revenue),
            "revenue_change_pct": plain(revenue_change),
            "net_profit": plain(profit),
            "net_profit_change_pct": plain(profit_change),
            "dividend_per_share": plain(paid),
        },
    }
