"""Shifts of two Polish coal mines from UCI's seismic-bumps CSV (PDDL, UCI: CC BY 4.0): those to train on.

Sikora and Wróbel 2010; https://archive.ics.uci.edu/dataset/266/seismic+bumps. Three, six and nine of every ten rows of a
class are held out (scripts/make/mining/seismic_held_out.py), so that both files have the share of hazardous shifts that
the data have.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HELD_OUT = (3, 6, 9)  # of every ten rows of a class
TEXT = ("seismic", "seismoacoustic", "shift", "ghazard")  # the other columns are whole numbers


def shifts(path: Path) -> Iterator[tuple[dict, bool]]:
    """Every row of the CSV, and whether it is held out."""
    seen: Counter[str] = Counter()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {k: v if k in TEXT else int(v) for k, v in row.items()}, seen[row["class"]] % 10 in HELD_OUT
            seen[row["class"]] += 1


def read(path: Path) -> Iterator[dict]:
    return (row for row, held_out in shifts(path) if not held_out)
