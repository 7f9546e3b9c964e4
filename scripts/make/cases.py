"""Rows of made-up cases, no two of which give the same facts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

MOST_FRUITLESS = 10_000  # draws in a row without a new case
Row = dict[str, Any]


def distinct(
    draw: Callable[[random.Random, str], Row], rows: int, seed: int, languages: tuple[str, ...] = ("en", "zh")
) -> list[Row]:
    """Rows that `draw(random, language)` gives, numbered in `case_id`; the languages take turns.

    The key `fault` is no fact: two rows that differ in it only are the same case. The same name, seed and number give
    the same rows.
    """
    rng = random.Random(f"{draw.__name__} {seed}")
    seen: set[str] = set()
    made: list[Row] = []
    fruitless = 0
    while len(made) < rows:
        language = languages[len(made) % len(languages)]
        row = draw(rng, language)
        facts = json.dumps([language, *(value for key, value in row.items() if key != "fault")], ensure_ascii=False)
        if facts in seen:
            fruitless += 1
            if fruitless == MOST_FRUITLESS:
                raise SystemExit(f"{draw.__name__}: no new case after {len(made)} rows")
            continue
        seen.add(facts)
        fruitless = 0
        made.append({"case_id": f"{len(made) + 1:05d}", "language": language, **row})
    return made
