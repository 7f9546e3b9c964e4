"""What a run made the device do that costs time on a card: counts of it, with the lines of code that asked.

syncs: the host waits for the device: a number is read (`.item()`, `if tensor:`), a tensor is copied to the host, or an op has an
    output whose shape depends on the data (`nonzero`, `x[mask]`, `unique`).
fallbacks: an op for which torch_npu 2.13.0 registers no kernel (fallbacks.txt), so that a card would copy its arguments to
    the host, compute there, and copy the result back.
uploads: a copy of a tensor from the host to the device.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch

KINDS = ("syncs", "fallbacks", "uploads")
FALLBACKS = frozenset((Path(__file__).parent / "fallbacks.txt").read_text(encoding="utf-8").split())
# They wait only where an index is a mask. (For `index` torch itself calls nonzero then, which is counted.)
WRITING = frozenset(f"aten::{name}" for name in ("index_put", "index_put_", "_index_put_impl_"))
READING = frozenset(f"aten::{name}" for name in ("index", "_unsafe_index"))
OWN = ("torch", "torch_npu")  # the packages whose lines are not told
_found: Counter[Site] = Counter()


class Site(NamedTuple):
    """What happened, in which op, at which line outside torch, and at which line of finetune ("" without one)."""

    kind: str
    op: str
    line: str
    ours: str


def counts() -> dict[str, int]:
    """Of each of KINDS, since the start or `reset`."""
    return {kind: sum(times for site, times in _found.items() if site.kind == kind) for kind in KINDS}


def sites(kind: str | None = None) -> Counter[Site]:
    """How often each line asked for it."""
    return Counter({site: times for site, times in _found.items() if kind in (None, site.kind)})


def reset() -> None:
    _found.clear()


def note(kind: str, op: str) -> None:
    """Counts one, with the lines that the interpreter is at."""
    line = ours = ""
    frame = sys._getframe(1)
    while frame is not None and not ours:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if not line and package not in OWN:
            line = _line(package, frame)
        if package == "finetune":
            ours = _line(package, frame)
        frame = frame.f_back
    _found[Site(kind, op, line, ours)] += 1


def note_op(op: Any, arguments: list[Any]) -> None:
    """What an op costs by what it is. Reading a number and copying are noted by their kernels."""
    name = op._schema.name
    full = name.removeprefix("aten::") + (f".{op._overloadname}" if op._overloadname != "default" else "")
    if full in FALLBACKS:
        note("fallbacks", full)
    elif name in READING:
        return
    elif name in WRITING:
        if any(
            isinstance(item, torch.Tensor) and item.dtype in (torch.bool, torch.uint8) for item in _indices(arguments)
        ):
            note("syncs", full)
    elif torch.Tag.dynamic_output_shape in op.tags or torch.Tag.data_dependent_output in op.tags:
        note("syncs", full)


def _indices(arguments: list[Any]) -> list[Any]:
    return next((list(item) for item in arguments if isinstance(item, (list, tuple))), [])


def _line(package: str, frame: Any) -> str:
    """finetune/step.py:67."""
    parts = Path(frame.f_code.co_filename).parts
    last = len(parts) - 1
    start = max((at for at, part in enumerate(parts) if part == package), default=last)
    return f"{'/'.join(parts[start:])}:{frame.f_lineno}"
