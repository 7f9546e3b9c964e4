"""Requests of a shop floor, in English and Chinese, each with the one call that does it, or with why none may be made.

A quarter lack a value that the call needs: ask. A quarter want what the machine does not take (a value outside its range,
a function that it lacks, a tag that is not on the line): refuse. Machines and ranges are made up and told in the prompt.
"""

from __future__ import annotations

import datetime
import random
from typing import Any

from scripts.make.cases import Row, distinct
from scripts.make.manufacturing.equipment_words import ASKED, KINDS, NEED, REFUSED, WORK

ROWS, SEED = 1000, 17
# Letter of the tag: ranges of speed in r/min, and of temperature in °C. None: the machine has no such setting.
SPEEDS: dict[str, tuple[tuple[int, int], ...]] = {
    "P": ((600, 2900), (500, 1500), (900, 3000)),
    "C": ((20, 180), (30, 120)),
    "M": ((30, 900), (50, 600), (20, 300)),
    "E": ((10, 120), (15, 90)),
}
TEMPERATURES: dict[str, tuple[tuple[int, int], ...]] = {
    "M": ((20, 140), (25, 90)),
    "E": ((120, 300), (150, 260)),
    "F": ((200, 1100), (300, 950), (250, 1250)),
    "D": ((40, 180), (50, 120)),
}
RANGES = {"speed": SPEEDS, "temperature": TEMPERATURES}
UNITS = {"speed": "rpm", "temperature": "celsius"}
CALLS = {"start": "start_equipment", "stop": "stop_equipment", "speed": "set_speed", "temperature": "set_temperature",
         "alarms": "query_alarms", "maintenance": "schedule_maintenance"}  # fmt: skip
LEFT_OUT = {"speed": "speed", "temperature": "temperature", "maintenance": "date"}  # beside the tag
FIRST_DAY = datetime.date(2026, 1, 5)


def line(rng: random.Random) -> list[dict[str, Any]]:
    """Three machines of different kinds; an absent range is None."""
    return [
        {
            "tag": f"{letter}-{rng.randint(1, 9)}{rng.randint(0, 9):02}",
            **{name: list(rng.choice(ranges[letter])) if letter in ranges else None for name, ranges in RANGES.items()},
        }
        for letter in rng.sample(sorted(KINDS["en"]), 3)
    ]


def arguments(rng: random.Random, action: str, limits: list[int] | None, outside: bool) -> dict[str, Any]:
    """The call's arguments beside the tag. A value is the range's end as often as within it, or outside by 1 or more."""
    if action in RANGES:
        low, high = limits or rng.choice(RANGES[action]["E"])
        inside = rng.choice((low, high, rng.randint(low, high), rng.randint(low, high)))
        beyond = rng.choice((low - 1, low - rng.randint(1, 10), high + 1, high + rng.randint(1, high - low)))
        return {UNITS[action]: beyond if outside else inside}
    if action == "stop":
        return {"mode": rng.choice(("normal", "emergency"))}
    if action == "alarms":
        return {"hours": rng.choice((1, 2, 4, 8, 12, 24, 48))}
    if action == "maintenance":
        return {
            "work": rng.choice(WORK["en"]),
            "date": (FIRST_DAY + datetime.timedelta(days=rng.randrange(360))).isoformat(),
        }
    return {}


def drawn(rng: random.Random, language: str) -> Row:
    machines = line(rng)
    of = rng.choice(machines)
    decision = rng.choice(("call", "call", "ask", "refuse"))
    why = rng.choice({"call": ("",), "ask": ("tag", "value"), "refuse": ("range", "lacks", "unknown")}[decision])
    actions = [
        action
        for action in CALLS
        if (action not in RANGES or (of[action] is None) == (why == "lacks"))
        and (why not in ("range", "lacks") or action in RANGES)
        and (why != "value" or action in LEFT_OUT)
    ]
    if not actions:  # a machine with both settings lacks none
        return drawn(rng, language)
    action = rng.choice([*actions, *(action for action in actions if action in RANGES)])  # values are the harder half
    given = arguments(rng, action, of.get(action), outside=why == "range")
    tag = of["tag"]
    if why == "unknown":
        tag = f"{tag[0]}-{rng.choice([n for n in range(100, 1000) if not tag.endswith(str(n))])}"
    missing = {"tag": "tag", "value": LEFT_OUT.get(action)}.get(why)
    return {
        "decision": decision,
        "tag": tag,
        "machines": machines,
        "request": request(rng, language, action, missing, tag, given),
        "call": {"name": CALLS[action], "arguments": {"equipment": tag, **given}} if decision == "call" else None,
        "reply": None if decision == "call" else reply(language, action, why, missing, of | {"tag": tag}),
    }


def request(
    rng: random.Random, language: str, action: str, missing: str | None, tag: str, given: dict[str, Any]
) -> str:
    """What is asked for in one of several wordings, without what is left out."""
    wordings = ASKED[language][action, missing, given.get("mode")]
    work = WORK[language][WORK["en"].index(given["work"])] if "work" in given else None
    named = tag if rng.random() < 0.5 else KINDS[language][tag[0]] + (" " if language == "en" else "") + tag
    return rng.choice(wordings).format(**{**given, "tag": named, "work": work})


def reply(language: str, action: str, why: str, missing: str | None, of: dict[str, Any]) -> str:
    """The question back, or the refusal with what stands against it."""
    if missing is not None:
        return NEED[language]["need"].format(NEED[language][missing])
    low, high = of[action] if why == "range" else (None, None)
    return REFUSED[language][why, action if why != "unknown" else None].format(tag=of["tag"], low=low, high=high)


def make(rows: int, seed: int) -> list[Row]:
    return distinct(drawn, rows, seed)
