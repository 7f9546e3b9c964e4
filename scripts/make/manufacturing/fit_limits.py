"""Limits of size and fits of holes and shafts of the hole-basis system, in English and Chinese.

Deviations are values of ISO 286-2 (GB/T 1800.2): facts, in micrometres, by the range that the nominal size is in. The
prompt tells them, so no answer depends on knowing the tables. All sums are in whole micrometres.
"""

from __future__ import annotations

import random
from bisect import bisect_left

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
UP_TO = (6, 10, 18, 30, 50, 80, 120, 180)  # mm, upper end of each range; the first begins above 3
GRADES = {  # standard tolerance grades IT6 to IT9
    6: (8, 9, 11, 13, 16, 19, 22, 25),
    7: (12, 15, 18, 21, 25, 30, 35, 40),
    8: (18, 22, 27, 33, 39, 46, 54, 63),
    9: (30, 36, 43, 52, 62, 74, 87, 100),
}
UPPER = {  # fundamental deviations that are a shaft's upper one; the lower one is it less the tolerance
    "e": (-20, -25, -32, -40, -50, -60, -72, -85),
    "f": (-10, -13, -16, -20, -25, -30, -36, -43),
    "g": (-4, -5, -6, -7, -9, -10, -12, -14),
    "h": (0,) * 8,
}
LOWER = {  # those that are a shaft's lower one; k is for grades up to 7
    "k": (1, 1, 1, 2, 2, 2, 3, 3),
    "m": (4, 6, 7, 8, 9, 11, 13, 15),
    "n": (8, 10, 12, 15, 17, 20, 23, 27),
    "p": (12, 15, 18, 22, 26, 32, 37, 43),
}
SHAFT_GRADES = {
    "e": (8, 9),
    "f": (6, 7, 8),
    "g": (6, 7),
    "h": (6, 7, 8, 9),
    "k": (6, 7),
    "m": (6, 7),
    "n": (6, 7),
    "p": (6, 7),
}


def shaft(letter: str, grade: int, nominal: int) -> tuple[int, int]:
    """Lower and upper deviation in µm."""
    place, tolerance = bisect_left(UP_TO, nominal), GRADES[grade][bisect_left(UP_TO, nominal)]
    if letter in UPPER:
        return UPPER[letter][place] - tolerance, UPPER[letter][place]
    return LOWER[letter][place], LOWER[letter][place] + tolerance


def drawn(rng: random.Random, _language: str) -> Row:
    nominal, hole_grade, letter = rng.randint(4, 180), rng.choice(tuple(GRADES)), rng.choice(tuple(SHAFT_GRADES))
    grade = rng.choice(SHAFT_GRADES[letter])
    hole = (0, GRADES[hole_grade][bisect_left(UP_TO, nominal)])
    low, high = shaft(letter, grade, nominal)
    largest, smallest = hole[1] - low, hole[0] - high
    return {
        "nominal_mm": nominal,
        "fit": f"H{hole_grade}/{letter}{grade}",
        "hole_um": list(hole),
        "shaft_um": [low, high],
        "largest_clearance_um": largest,
        "smallest_clearance_um": smallest,
        "kind": "clearance" if smallest >= 0 else "interference" if largest <= 0 else "transition",
    }


def make(rows: int, seed: int) -> list[Row]:
    return distinct(drawn, rows, seed)
