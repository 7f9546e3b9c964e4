"""Made-up shift records of headings that are bolted row by row: advance, rows due, bolts due and missing; Chinese and English."""

from __future__ import annotations

import random

from scripts.make.cases import distinct

ROWS, SEED = 1200, 59
SPACINGS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.2)  # m between rows of bolts
SHIFTS = ("day", "evening", "night")


def tunnelling(rng: random.Random, language: str) -> dict:
    """One shift; the advance is a whole number of rows. Lengths are worked in decimetres, so that they are exact."""
    spacing = round(10 * rng.choice(SPACINGS))
    rows, bolts = rng.randint(2, 12), rng.randint(4, 11)
    start = rng.randint(200, 9000)
    missing = 0 if rng.random() < 0.4 else rng.randint(1, bolts)
    end = start + rows * spacing
    return {
        "heading": f"{rng.randint(1, 9)}{rng.randint(1, 9):02d}",
        "shift": rng.choice(SHIFTS),
        "from_m": start / 10,
        "to_m": end / 10,
        "spacing_m": spacing / 10,
        "bolts_per_row": bolts,
        "bolts_set": rows * bolts - missing,
        "advance_m": (end - start) / 10,
        "rows": rows,
        "bolts_due": rows * bolts,
        "missing": missing,
        "figures": f"{spacing} {rows} {bolts}",
    }


def make(rows: int, seed: int) -> list[dict]:
    return distinct(tunnelling, rows, seed)
