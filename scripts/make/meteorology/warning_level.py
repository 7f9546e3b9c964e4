"""Which warning signal a forecast calls for, by the criteria of the China Meteorological Administration.

Bounds are those of order No. 16 (2007), 《气象灾害预警信号发布与传播办法》. 以上 and 以下 include the number (Civil Code of
the PRC, article 1259), 小于 does not. Lightning and hail have no numbers there and are left out; of drought only the
share of crops is taken. Hours 0 means that it is there already and goes on.
"""

from __future__ import annotations

import random

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 43
LEVELS = ("red", "orange", "yellow", "blue")  # the highest one that is met is issued
MIN, MAX, BELOW = "at least", "at most", "below"
# hazard: what its bounds are of (quantity, sense), whether any or all of them must be met, and per level the hours
# ahead and the bounds.
CRITERIA: dict[str, tuple[tuple[tuple[str, str], ...], str, dict[str, tuple[int, tuple[float, ...]]]]] = {
    "typhoon": ((("wind", MIN), ("gust", MIN)), "any",
                {"blue": (24, (6, 8)), "yellow": (24, (8, 10)), "orange": (12, (10, 12)), "red": (6, (12, 14))}),
    "rainstorm": ((("rain", MIN),), "all",
                  {"blue": (12, (50,)), "yellow": (6, (50,)), "orange": (3, (50,)), "red": (3, (100,))}),
    "snowstorm": ((("snow", MIN),), "all",
                  {"blue": (12, (4,)), "yellow": (12, (6,)), "orange": (6, (10,)), "red": (6, (15,))}),
    "cold_wave": ((("drop", MIN), ("low", MAX), ("wind", MIN)), "all",
                  {"blue": (48, (8, 4, 5)), "yellow": (24, (10, 4, 6)), "orange": (24, (12, 0, 6)),
                   "red": (24, (16, 0, 6))}),
    "gale": ((("wind", MIN), ("gust", MIN)), "any",
             {"blue": (24, (6, 7)), "yellow": (12, (8, 9)), "orange": (6, (10, 11)), "red": (6, (12, 13))}),
    "sandstorm": ((("visibility", BELOW),), "all", {"yellow": (12, (1000,)), "orange": (6, (500,)), "red": (6, (50,))}),
    "heat": ((("high", MIN), ("days", MIN)), "all", {"yellow": (24, (35, 3)), "orange": (24, (37, 1)), "red": (24, (40, 1))}),
    "drought": ((("crops", MIN),), "all", {"orange": (168, (40,)), "red": (168, (60,))}),
    "frost": ((("ground", MAX),), "all", {"blue": (48, (0,)), "yellow": (24, (-3,)), "orange": (24, (-5,))}),
    "fog": ((("visibility", BELOW),), "all", {"yellow": (12, (500,)), "orange": (6, (200,)), "red": (2, (50,))}),
    "haze": ((("visibility", BELOW),), "all", {"yellow": (12, (3000,)), "orange": (6, (2000,))}),
    "road_ice": ((("road", BELOW),), "all", {"yellow": (12, (0,)), "orange": (6, (0,)), "red": (2, (0,))}),
}  # fmt: skip
# What forecasts are drawn from: around the bounds, and on them.
VALUES: dict[str, tuple[float, ...]] = {
    "wind": tuple(range(3, 15)), "gust": tuple(range(6, 17)), "rain": (20, 35, 45, 49, 50, 51, 60, 75, 90, 99, 100, 120, 150),
    "snow": (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 18), "drop": tuple(range(5, 20)), "low": tuple(range(-9, 9)),
    "high": tuple(range(33, 43)), "days": (1, 2, 3, 4), "crops": (15, 25, 35, 39, 40, 45, 55, 59, 60, 65, 75),
    "ground": tuple(range(-9, 4)), "road": tuple(range(-7, 4)),
}  # fmt: skip
VISIBILITY = {
    "sandstorm": (30, 40, 45, 50, 100, 300, 450, 500, 600, 800, 950, 1000, 1500),
    "fog": (20, 30, 40, 50, 80, 100, 150, 190, 200, 300, 450, 500, 600, 800),
    "haze": (800, 1500, 1800, 1950, 2000, 2400, 2900, 3000, 3500, 4500),
}
HOURS = {"rainstorm": (1, 2, 3, 6, 12, 24), "snowstorm": (3, 6, 12, 24), "cold_wave": (12, 24, 48, 72), "heat": (24,),
         "drought": (168,)}  # fmt: skip
LEAD = (0, 1, 2, 4, 6, 8, 12, 18, 24, 36, 48)  # of what comes at a time rather than adds up


def make(rows: int, seed: int) -> list[Row]:
    return distinct(warning_level, rows, seed)


def warning_level(rng: random.Random, language: str) -> Row:
    """One forecast; levels are drawn first, so that each is as frequent as its hazards allow."""
    wanted = rng.choice((*LEVELS, "none"))
    hazard = rng.choice([name for name, (_, _, levels) in CRITERIA.items() if wanted in (*levels, "none")])
    while True:
        hours = rng.choice(HOURS.get(hazard, LEAD))
        values = {name: float(rng.choice(VALUES.get(name) or VISIBILITY[hazard])) for name, _ in CRITERIA[hazard][0]}
        plausible = values.get("gust", 99) > values.get("wind", 0)
        if plausible and level_of(hazard, hours, values) == wanted:
            break
    met = CRITERIA[hazard][2].get(wanted)
    return {
        "hazard": hazard,
        "hours": hours,
        **{name: values.get(name) for name in (*VALUES, "visibility")},
        "level": wanted,
        "bound_hours": met[0] if met else None,
        "bounds": list(map(float, met[1])) if met else [],
        "profile": f"{hazard}:{hours}:" + ":".join(f"{value:g}" for value in values.values()),
    }


def level_of(hazard: str, hours: int, values: dict[str, float]) -> str:
    """The highest level whose hours and bounds are met, or `none`.

    Args:
        hours: within which the amount falls, or until it comes; a level looks as many hours ahead or more.
    """
    quantities, how, levels = CRITERIA[hazard]
    for level in LEVELS:
        if level in levels and hours <= levels[level][0]:
            met = [
                holds(values[name], sense, bound)
                for (name, sense), bound in zip(quantities, levels[level][1], strict=True)
            ]
            if any(met) if how == "any" else all(met):
                return level
    return "none"


def holds(value: float, sense: str, bound: float) -> bool:
    return {MIN: value >= bound, MAX: value <= bound, BELOW: value < bound}[sense]
