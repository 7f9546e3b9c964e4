"""The shifts of UCI's seismic-bumps CSV that are held out, hazardous ones as rare as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scripts.make.mining.seismic_hazard import shifts


def read(path: Path) -> Iterator[dict]:
    return (row for row, held_out in shifts(path) if held_out)
