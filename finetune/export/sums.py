"""The sums: base rows widened to float32, delta and magnitude put on them, cast once; in tiles that stay in the cache."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from functools import lru_cache

import torch

from finetune.errors import GateError
from finetune.export.changes import Change, LowRank, finite
from finetune.export.jobs import Job, Segment, work_dtype
from finetune.export.multiplied import Rotation, rotate_rows, scale_rows
from finetune.export.weights import FLOATS, Stored

Pair = tuple[torch.Tensor, torch.Tensor]
TILE = 1 << 17  # elements: two of them in float32 lie in a core's own cache


class Operands:
    """The adapter's tensors of the parameters at hand, in float32; older ones are let go. For several threads."""

    def __init__(self, kept: int = 4) -> None:
        self._lock = threading.Lock()  # threads that start on one tensor read its operands once
        self._load = lru_cache(kept)(Stored.load)
        self._stacks = lru_cache(kept)(_stacks)
        self._blocks = lru_cache(kept)(Rotation.blocks)

    def whole(self, tensor: Stored) -> torch.Tensor:
        """One tensor of the adapter."""
        with self._lock:
            return self._load(tensor)

    def blocks(self, rotation: Rotation) -> torch.Tensor:
        """R_i of a rotation, (blocks, b, b)."""
        with self._lock:
            return self._blocks(rotation)

    def pair(self, lora: LowRank, expert: int) -> Pair:
        """(A, B) of one expert, or of the layer: (r, in), (out, r)."""
        with self._lock:
            down, up = self._stacks(lora)
        return (down[expert], up[expert]) if lora.experts > 1 else (down[0], up[0])


def _stacks(lora: LowRank) -> Pair:
    """A (E, r, in) and B (E, out, r); peft stacks A by expert first, B by rank first (ParamWrapper.get_delta_weight)."""
    down, up = lora.down.load(), lora.up.load()
    down = down.reshape(lora.experts, -1, down.shape[-1])
    up = up.reshape(up.shape[0], -1, lora.experts).permute(2, 0, 1).contiguous()
    return down, up


class Scratch(threading.local):
    """Memory that a thread uses again and again: fresh pages for each block would cost as much as the sums."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor with whatever was in it; the next `take` of the same name takes it away again."""
        size = math.prod(shape) * dtype.itemsize
        if name not in self._held or self._held[name].numel() < size:
            self._held[name] = torch.empty(size, dtype=torch.uint8)
        return self._held[name][:size].view(dtype).view(shape)


def by_column(change: Change) -> bool:
    """Whether DoRA's norms run down the tensor as it lies: its outputs are columns, not rows."""
    assert change.low_rank is not None
    return change.transposed or change.low_rank.embedding


def column_factor(job: Job, change: Change, operands: Operands, scratch: Scratch) -> torch.Tensor:
    """m / ||W + delta|| for each column, (1, columns); squares summed in float64, rows read in blocks."""
    assert change.low_rank is not None and change.magnitude is not None
    _, _, columns = job.dimensions
    squares = torch.zeros(columns, dtype=torch.float64)
    for segment in job.segments():
        rows = _read(job, segment, scratch)
        for first, last in _tiles(*rows.shape):
            squares += _with_delta(job, segment, rows, first, last, operands, scratch).double().square().sum(0)
    return (operands.whole(change.magnitude).double().view(-1) / squares.sqrt()).float().view(1, -1)


def merged_rows(
    job: Job, segment: Segment, operands: Operands, scratch: Scratch, factor: torch.Tensor | None
) -> torch.Tensor:
    """A block of the merged tensor in the dtype it is written in, in the thread's scratch memory.

    Args:
        factor: of `column_factor`, where DoRA's norms run down the tensor.

    Raises:
        GateError: a value is not finite.
    """
    rows = _read(job, segment, scratch)
    if job.source.dtype not in FLOATS:
        return rows
    target = FLOATS[job.dtype]
    if segment.change is None and rows.dtype == target:
        result = rows
    else:
        result = scratch.take("out", tuple(rows.shape), target)
        for first, last in _tiles(*rows.shape):
            result[first:last].copy_(_changed(job, segment, rows, first, last, operands, scratch, factor))
    if not finite(result):
        raise GateError(f"export stopped: {job.name} of the merged model is not finite (NaN or infinity)")
    return result


def _tiles(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, TILE // max(columns, 1))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _read(job: Job, segment: Segment, scratch: Scratch) -> torch.Tensor:
    """The segment's rows as they are stored, (rows, columns); bytes for a type that is only copied."""
    _, rows, columns = job.dimensions
    each = job.source.size // max(job.source.count, 1)
    count = segment.last - segment.first
    start = (segment.lead * rows + segment.first) * columns * each
    raw = scratch.take("in", (count * columns * each,), torch.uint8)
    job.source.read_into(raw, start)
    return raw.view(FLOATS[job.source.dtype]).view(count, columns) if job.source.dtype in FLOATS else raw


def _with_delta(
    job: Job, segment: Segment, rows: torch.Tensor, first: int, last: int, operands: Operands, scratch: Scratch
) -> torch.Tensor:
    """Rows `first` to `last` of the segment: W + scale * B A, or the transpose of that product."""
    shape = (last - first, rows.shape[1])
    weights = scratch.take("weights", shape, work_dtype(job.source)).copy_(rows[first:last])
    change = segment.change
    if change is None or change.low_rank is None:
        return weights
    lora = change.low_rank
    down, up = operands.pair(lora, segment.expert)
    low, high = segment.start + first, segment.start + last
    if by_column(change):
        delta = torch.mm(up, down[:, low:high], out=scratch.take("delta", shape[::-1], torch.float32)).T
    else:
        delta = torch.mm(up[low:high], down, out=scratch.take("delta", shape, torch.float32))
    return weights.add_(delta if lora.scale == 1 else delta.mul_(lora.scale))


def _changed(
    job: Job,
    segment: Segment,
    rows: torch.Tensor,
    first: int,
    last: int,
    operands: Operands,
    scratch: Scratch,
    factor: torch.Tensor | None,
) -> torch.Tensor:
    """Rows `first` to `last` of the segment with their whole change, not cast yet.

    DoRA: W' = m (W + delta) / ||W + delta||, the norm over the inputs of each output (arXiv 2402.09353, eq. 5).
    """
    change = segment.change
    if change is None:
        return rows[first:last]
    weights = _with_delta(job, segment, rows, first, last, operands, scratch)
    low, high = segment.start + first, segment.start + last  # in the parameter
    if change.magnitude is not None:
        if factor is None:
            magnitude = operands.whole(change.magnitude).view(-1)[low:high]
            weights *= (magnitude / torch.linalg.norm(weights, dim=1)).view(-1, 1)
        else:
            weights *= factor
    if change.tokens is not None:
        tokens = operands.whole(change.tokens)
        for number, row in enumerate(change.rows):
            if low <= row < high:
                weights[row - low] = tokens[number].to(weights.dtype)
    if change.shift is not None:
        weights += (operands.whole(change.shift)[low:high] * change.shift_scale).view(-1, 1)
    if change.scaling is not None:
        scale_rows(
            weights, operands.whole(change.scaling.vector), change.scaling.inputs != change.transposed, low, high
        )
    if change.rotation is not None:
        rotate_rows(weights, operands.blocks(change.rotation))
    return weights
