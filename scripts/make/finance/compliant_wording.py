"""Facts of made-up cases, half English and half Chinese; `fault` says what is wrong with the worse answer.

Products for private investors, and the questions they ask about them.
All wording is in data_templates/finance/compliant_wording.yaml, which names the rules that the limits come from.
"""

from __future__ import annotations

import random

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
PRODUCTS = {
    "en": ("Harbour short-term bond fund", "Northgate balanced fund", "Elmfield corporate bond note", "Meridian gold tracker",
           "Kestrel technology equity fund", "Saltmarsh income plan", "Orchard money market fund", "Beacon global equity fund"),
    "zh": ("稳盈90天封闭式理财", "丰润一年定开混合", "安泰短债基金", "瑞景科技股票基金", "嘉禾固收增强理财", "恒远黄金ETF联接",
           "广济货币市场基金", "明德可转债基金"),
}  # fmt: skip


def make(rows: int, seed: int) -> list[Row]:
    return distinct(compliant_wording, rows, seed)


def compliant_wording(rng: random.Random, language: str) -> Row:
    return {
        "product": rng.choice(PRODUCTS[language]),
        "risk": rng.randint(1, 5),
        "past_return_pct": rng.randint(-40, 120) / 10,
        "term_months": rng.choice([1, 3, 6, 12, 24, 36]),
        "question": rng.choice(["return", "principal", "everyone", "deposit"]),
        "fault": rng.choice(["promised_return", "safe_principal", "for_everyone"]),
    }
