"""As finqa_facts, with six sentences more on each page that nobody asks about: what the answer rests on must be found."""

from __future__ import annotations

from scripts.make.finance.finqa_facts import pages

ROWS, SEED = 520, 23


def make(rows: int, seed: int) -> list[dict]:
    return pages(rows, seed, told=2, fillers=6)
