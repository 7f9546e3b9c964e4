"""What is written: one job a tensor, cut into segments of rows with the change that falls on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from finetune.export.changes import Change
from finetune.export.origins import Part
from finetune.export.weights import BLOCK, FLOATS, Stored


@dataclass(frozen=True)
class Segment:
    """Rows of a tensor that one change (or none) falls on.

    Attributes:
        lead: index in the first of three dimensions; 0 otherwise.
        first, last: rows of the tensor (within `lead`), the last not included.
        expert, start: where its first row is in the parameter.
    """

    lead: int
    first: int
    last: int
    change: Change | None = None
    expert: int = 0
    start: int = 0


@dataclass(frozen=True)
class Job:
    """One tensor to write.

    Attributes:
        source: read from the base, or from the adapter where that replaces it.
        dtype: safetensors' code of what is written.
        parts: the parameters it is part of, with their changes.
        through: the base's values are quantised and back first; `transposed` where the tensor is turned for that.
    """

    name: str
    source: Stored
    dtype: str
    parts: tuple[tuple[Part, Change], ...] = ()
    through: Literal["as it is", "transposed"] | None = None

    @property
    def size(self) -> int:
        """Bytes to write."""
        return self.source.count * FLOATS[self.dtype].itemsize if self.dtype in FLOATS else self.source.size

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """(leading, rows, columns); a vector is a column."""
        shape = self.source.shape
        if len(shape) < 2:
            return 1, self.source.count, 1
        return self.source.count // max(shape[-1] * shape[-2], 1), shape[-2], shape[-1]

    def segments(self) -> Iterator[Segment]:
        """Blocks of rows that together are the tensor, each about `BLOCK` elements or a row."""
        leading, rows, columns = self.dimensions
        step = max(1, BLOCK // max(columns, 1))
        edges = sorted({0, rows} | {edge for part, _ in self.parts for edge in (part.at, part.at + part.rows)})
        for lead in range(leading):
            for low, high in pairwise(edges):
                part, change = next(
                    ((p, c) for p, c in self.parts if p.at <= low < p.at + p.rows), (Part("", rows), None)
                )
                expert = lead if part.expert is None else part.expert
                for first in range(low, high, step):
                    start = part.start + first - part.at
                    yield Segment(lead, first, min(first + step, high), change, expert, start)


def work_dtype(source: Stored) -> torch.dtype:
    """What sums are made in: float32, or float64 for a base in that."""
    return torch.promote_types(FLOATS[source.dtype], torch.float32)
