"""Facts of made-up cases, half English and half Chinese; `fault` says what is wrong with the labelled answer.

Test results of batches, a third of them outside their limits or more.
All wording is in data_templates/pharma/batch_deviation.yaml, which names the rules that the limits come from.
"""

from __future__ import annotations

import random

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
# test: unit, least and most allowed, decimals
TESTS = {"assay": ("%", 95.0, 105.0, 1), "dissolution": ("%", 80.0, 100.0, 0), "water": ("%", 0.0, 3.0, 2),
         "hardness": ("N", 60.0, 120.0, 0), "ph": ("", 5.5, 7.0, 2)}  # fmt: skip


def make(rows: int, seed: int) -> list[Row]:
    return distinct(batch_deviation, rows, seed)


def batch_deviation(rng: random.Random, language: str) -> Row:
    test = rng.choice(list(TESTS))
    unit, low, high, decimals = TESTS[test]
    spread = (high - low) * 0.35
    value = round(rng.uniform(max(0.0, low - spread), high + spread), decimals)
    return {
        "batch": f"{rng.choice('ABCDEF')}{rng.randint(1000, 9999)}",
        "test": test,
        "unit": unit,
        "low": low,
        "high": high,
        "value": value,
        "fault": rng.choice(["none", "none", "none", "wrong_verdict", "no_limits", "retest_only"]),
    }
