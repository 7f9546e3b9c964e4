"""The hazardous ones of the shifts that scripts/make/mining/seismic_hazard.py trains on, for a recipe to repeat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scripts.make.mining.seismic_hazard import shifts


def read(path: Path) -> Iterator[dict]:
    return (row for row, held_out in shifts(path) if row["class"] == 1 and not held_out)
