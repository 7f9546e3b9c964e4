"""One reading underground against its limit in China's coal mine safety regulations (煤矿安全规程), in Chinese and English.

Limits and articles: edition of 2016 as amended in 2022, articles 135 (air, table 4), 136 (air speed, table 5), 171 to 174
(methane, carbon dioxide); a revised edition is in force since 1 February 2026. "超过" (above) and "达到" (reaches) differ at the
limit itself, so readings at it are frequent.
"""

from __future__ import annotations

import random
from decimal import Decimal
from typing import NamedTuple

from scripts.make.cases import distinct

ROWS, SEED = 1200, 41


class Limit(NamedTuple):
    """Right is from `least` to `most`, `most` itself too where `reached` is False."""

    most: Decimal | None
    reached: bool
    action: str
    article: int
    least: Decimal | None = None


def above(most: str, action: str, article: int) -> Limit:
    return Limit(Decimal(most), False, action, article)


def reaching(most: str, action: str) -> Limit:
    return Limit(Decimal(most), True, action, 173)


def speed(least: str | None, most: str) -> Limit:
    return Limit(Decimal(most), False, "adjust_air", 136, Decimal(least) if least else None)


CO = above("24", "ventilate", 135)  # 0.0024 % by volume
FACE = {
    "CH4": (reaching("1.0", "stop_drill"), reaching("1.5", "stop_cut_withdraw")),
    "CO2": (Limit(Decimal("1.5"), True, "stop_withdraw", 174),),
    "CO": (CO,),
}
RETURN = {"CH4": (above("1.0", "stop_withdraw", 172),), "CO2": (above("1.5", "stop_withdraw", 172),), "CO": (CO,)}
WHOLE_RETURN = {"CH4": (above("0.75", "find_cause", 171),), "CO2": (above("0.75", "find_cause", 171),)}
OXYGEN = Limit(None, False, "ventilate", 135, Decimal(20))
LIMITS: dict[str, dict[str, tuple[Limit, ...]]] = {
    "total_return": WHOLE_RETURN | {"speed": (speed(None, "8"),)},
    "wing_return": WHOLE_RETURN,
    "district_return": RETURN | {"speed": (speed("0.25", "6"),)},
    "face_return": RETURN,
    "face": FACE | {"speed": (speed("0.25", "4"),)},
    "coal_heading": FACE | {"speed": (speed("0.25", "4"),)},
    "rock_heading": {"speed": (speed("0.15", "4"),)},
    "face_intake": {"O2": (OXYGEN,), "CO2": (above("0.5", "ventilate", 135),), "CO": (CO,)},
    "motor": {"CH4": (reaching("1.5", "stop_cut_withdraw"),)},
    "shots": {"CH4": (reaching("1.0", "no_blasting"),)},
    "cavity": {"CH4": (reaching("2.0", "stop_cut_withdraw_20"),)},
    "conveyor": {"CO": (CO,), "speed": (speed("0.25", "6"),)},
    "overcast": {"speed": (speed(None, "10"),)},
    "trolley": {"speed": (speed("1.0", "8"),)},
}
PLACES = {
    "total_return": ("main return airway, level {n}", "{n}水平总回风巷"),
    "wing_return": ("wing return airway {n}", "{n}一翼回风巷"),
    "district_return": ("return airway of district {n}", "{n}采区回风巷"),
    "face_return": ("return airway of coal face {n}", "{n}采煤工作面回风巷"),
    "face": ("coal face {n}", "{n}采煤工作面"),
    "coal_heading": ("coal heading {n}", "{n}煤巷掘进工作面"),
    "rock_heading": ("rock heading {n}", "{n}岩巷掘进工作面"),
    "face_intake": ("intake air of coal face {n}", "{n}采煤工作面进风流"),
    "motor": ("{d} m from the motor of pump {n}", "{n}水泵电动机{d}米处"),
    "shots": ("{d} m from the shots in heading {n}", "{n}爆破地点{d}米处"),
    "cavity": ("roof cavity of {v} m3, face {n}", "{n}工作面{v}立方米顶板空洞"),
    "conveyor": ("conveyor roadway {n}", "{n}运输机巷"),
    "overcast": ("overcast {n}", "{n}风桥"),
    "trolley": ("trolley locomotive roadway {n}", "{n}架线电机车巷道"),
}
STEPS = {"CH4": "0.01", "CO2": "0.01", "O2": "0.1", "CO": "1", "speed": "0.05"}
UNITS = {"CH4": "%", "CO2": "%", "O2": "%", "CO": "ppm", "speed": "m/s"}
FREQUENT = (
    "face",
    "coal_heading",
    "face_return",
) * 2  # where most sensors hang; methane, named first, is drawn twice as often
MOST = {"shots": Decimal("1.49")}  # from 1.5 on a place of work has a second rule


def broken(value: Decimal, limits: tuple[Limit, ...]) -> Limit | None:
    """The last limit that a reading breaks; None where it breaks none."""
    found = None
    for limit in limits:
        too_much = limit.most is not None and (value >= limit.most if limit.reached else value > limit.most)
        if too_much or (limit.least is not None and value < limit.least):
            found = limit
    return found


def reading(rng: random.Random, quantity: str, limit: Limit) -> Decimal:
    """At the limit once in six, else up to half of it away."""
    edge = rng.choice([bound for bound in (limit.least, limit.most) if bound is not None])
    step = Decimal(STEPS[quantity])
    reach = 12 if quantity == "O2" else max(4, int(edge / step / 2))
    steps = 0 if rng.random() < 1 / 6 else rng.randint(-reach, reach)
    value = max(step, edge + steps * step)
    return min(value, Decimal("20.9")) if quantity == "O2" else value


def gas_alarm(rng: random.Random, language: str) -> dict:
    """One reading at one place."""
    kind = rng.choice([*LIMITS, *FREQUENT])
    quantity = rng.choice([*LIMITS[kind], *list(LIMITS[kind])[:1]])
    limits = LIMITS[kind][quantity]
    value = min(reading(rng, quantity, rng.choice(limits)), MOST.get(kind, Decimal(1000)))
    over = broken(value, limits)
    named = over or limits[0]
    number = (
        f"{rng.randint(1, 8)}{rng.randint(1, 4):02d}"
        if kind not in ("total_return", "wing_return")
        else rng.randint(1, 9)
    )
    place = PLACES[kind][language == "zh"].format(n=number, d=rng.randint(2, 20), v=rng.randint(6, 30) / 10)
    return {
        "place": place,
        "kind": kind,
        "quantity": quantity,
        "value": float(value),
        "unit": UNITS[quantity],
        "over": over is not None,
        "least": None if named.least is None else float(named.least),
        "most": None if named.most is None else float(named.most),
        "reached": named.reached,
        "action": over.action if over else "carry_on",
        "article": named.article,
        "figure": f"{kind} {quantity} {value}",
    }


def make(rows: int, seed: int) -> list[dict]:
    return distinct(gas_alarm, rows, seed)
