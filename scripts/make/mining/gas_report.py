"""Facts of made-up cases, half English and half Chinese; `fault` says what is wrong with the worse answer.

Methane and oxygen readings, those near a limit as often as the others.
All wording is in data_templates/mining/gas_report.yaml, which names the rules that the limits come from.
"""

from __future__ import annotations

import random

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
PLACES = {
    "en": ("longwall face 3", "return airway 12", "development heading 7", "belt entry 4", "tailgate of panel 9",
           "bleeder entry 2"),
    "zh": ("3号采煤工作面", "12回风巷", "7号掘进工作面", "4号胶带巷", "9采区上隅角", "2号联络巷"),
}  # fmt: skip


def make(rows: int, seed: int) -> list[Row]:
    return distinct(gas_report, rows, seed)


def gas_report(rng: random.Random, language: str) -> Row:
    return {
        "place": rng.choice(PLACES[language]),
        "shift": rng.choice(["day", "evening", "night"]),
        "methane_pct": rng.choice([rng.randint(5, 95), rng.randint(101, 145), rng.randint(150, 220)]) / 100,
        "oxygen_pct": rng.randint(185, 208) / 10,
        "fault": rng.choice(["no_alarm", "no_reading", "wait"]),
    }
