"""Facts of made-up cases, half English and half Chinese; `fault` says what is wrong with the worse answer.

Warnings of four hazards with the bound of their level.
All wording is in data_templates/meteorology/warning_bulletin.yaml, which names the rules that the limits come from.
"""

from __future__ import annotations

import random

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
AREAS = {
    "en": ("Ashford valley", "the northern coast", "Linden county", "the Harrow hills", "Port Wexley", "the Tarn basin",
           "Millbrook district", "the eastern plain"),
    "zh": ("临江区", "北部沿海", "青石县", "东部山区", "南湖新区", "白河流域", "西岭镇", "滨海新区"),
}  # fmt: skip
# hazard: unit, and for each level its bound and the hours it looks ahead (fog has no blue)
HAZARDS = {
    "rain": ("mm", {"blue": (50, 12), "yellow": (50, 6), "orange": (50, 3), "red": (100, 3)}),
    "snow": ("mm", {"blue": (4, 12), "yellow": (6, 12), "orange": (10, 6), "red": (15, 6)}),
    "wind": ("m/s", {"blue": (10.8, 24), "yellow": (17.2, 12), "orange": (24.5, 6), "red": (32.7, 6)}),
    "fog": ("m", {"yellow": (500, 12), "orange": (200, 6), "red": (50, 2)}),
}


def make(rows: int, seed: int) -> list[Row]:
    return distinct(warning_bulletin, rows, seed)


def warning_bulletin(rng: random.Random, language: str) -> Row:
    hazard = rng.choice(list(HAZARDS))
    unit, levels = HAZARDS[hazard]
    level = rng.choice(list(levels))
    value, hours = levels[level]
    return {
        "area": rng.choice(AREAS[language]),
        "hazard": hazard,
        "level": level,
        "value": value,
        "unit": unit,
        "hours": hours,
        "issued_hour": rng.randint(0, 23),
        "day": rng.randint(1, 28),
        "fault": rng.choice(["relative_time", "wrong_end", "other_level"]),
    }
