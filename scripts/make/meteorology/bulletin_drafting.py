"""Small forecast tables of made-up regions, three places at two hours, and what a bulletin says of them.

The highest and the lowest temperature, the most rain and the strongest wind stand in one cell of the table each.
"""

from __future__ import annotations

import math
import random

from scripts.make.cases import Row, distinct

ROWS, SEED = 1100, 59
REGIONS = {
    "en": {
        "Tarn basin": ("Linden", "Wexley", "Harrow", "Millbrook"), "northern coast": ("Port Ashe", "Gull Point", "Sandhythe"),
        "Copper hills": ("Keld", "Upper Moss", "Redmine", "Stone Cross"), "Orrin plain": ("Fenwick", "Dale End", "Barrowby"),
        "Saddler range": ("High Pass", "Larchwood", "Snowdon Lea"), "Wick valley": ("Wickford", "Teller", "Quillham"),
        "southern islands": ("Fair Isle", "Rook Island", "Oyster Bay"), "eastern lakes": ("Marrow", "Lakeside", "Benning"),
        "western moors": ("Lowry", "Heathfield", "Grimstone"), "river delta": ("Mouth Town", "Reedham", "Saltney"),
    },
    "zh": {
        "白河流域": ("临江", "柳溪", "石桥", "河口"), "北部沿海": ("青港", "鸥岛", "沙湾"),
        "东部山区": ("云顶", "松岭", "铁岩", "上坪"),
        "南湖平原": ("南湖", "稻香", "三里"), "西岭": ("高关", "落叶", "雪台"), "青石县": ("城关", "东坪", "柏林"),
        "滨海群岛": ("大屿", "牡蛎", "月牙"), "湖区": ("湖滨", "芦荡", "双塔"), "高原": ("草海", "白塔", "石滩"),
        "三江口": ("江口", "盐场", "渡头"),
    },
}  # fmt: skip
HOURS = ((2, 14), (8, 14), (8, 20), (5, 17), (6, 12), (14, 20))
WARMTH = {2: -4, 5: -5, 6: -4, 8: -2, 11: 2, 12: 3, 14: 4, 17: 2, 18: 1, 20: -1}  # of the hour, against the day's mean


def make(rows: int, seed: int) -> list[Row]:
    return distinct(bulletin_drafting, rows, seed)


def bulletin_drafting(rng: random.Random, language: str) -> Row:
    region, month = rng.choice(list(REGIONS[language])), rng.randint(1, 12)
    while True:
        places = rng.sample(REGIONS[language][region], 3)
        cells = forecast(rng, places, rng.choice(HOURS), month)
        said = {
            "high": extreme(cells, "temp", max),
            "low": extreme(cells, "temp", min),
            "most_rain": extreme(cells, "rain", max),
            "strongest": extreme(cells, "wind", max),
        }
        dry = [place for place in places if all(cell["rain"] == 0 for cell in cells if cell["place"] == place)]
        rainless = len(dry) == len(places)
        if all(cell is not None or (name == "most_rain" and rainless) for name, cell in said.items()):
            return {
                "region": region,
                "month": month,
                "day": rng.randint(1, 28),
                "cells": [list(cell.values()) for cell in cells],
                **said,
                "dry": dry,
            }


def forecast(rng: random.Random, places: list[str], hours: tuple[int, ...], month: int) -> list[dict]:
    """One row for each place and hour: °C, mm of the hours before, m/s."""
    mean = rng.randint(-4, 4) + round(11 - 13 * math.cos(math.pi * (month - 1) / 6))
    wet = mean > 0 and rng.random() < 0.95
    cells = []
    for place in places:
        offset, rainy = rng.randint(-3, 3), wet and rng.random() < 0.7
        for hour in hours:
            cells.append(
                {
                    "place": place,
                    "hour": hour,
                    "temp": mean + offset + WARMTH[hour] + rng.randint(-1, 1),
                    "rain": rng.choice((0, rng.randint(1, 9), rng.randint(5, 40))) if rainy else 0,
                    "wind": rng.randint(1, 18),
                }
            )
    return cells


def extreme(cells: list[dict], name: str, pick) -> dict | None:
    """The one cell with the largest or smallest value; None where several have it."""
    value = pick(cell[name] for cell in cells)
    found = [cell for cell in cells if cell[name] == value]
    return {"value": value, "place": found[0]["place"], "hour": found[0]["hour"]} if len(found) == 1 else None
