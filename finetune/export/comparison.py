"""Two runs of one recipe side by side: counts, loss, adapter, scores, and whether it is the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A score is a mean over held-out rows; rounding that differs (another device, another library) turns single answers.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Compared:
    """One line of the table; `difference` None where the two are not numbers."""

    name: str
    before: Any
    now: Any
    difference: float | None


def verdict_of(
    bundle: Path, before: Mapping[str, Any], new_bundle: Path, now: Mapping[str, Any]
) -> tuple[list[str], str, bool]:
    """The table, the verdict in a line, and whether it is the same run."""
    rows = _counts(before, now)
    moved = [row for row in rows if row.before != row.now]
    rows += [_compared("training loss", before["training"]["loss"], now["training"]["loss"])]
    tensors = _adapter_difference(bundle, new_bundle)
    rows.append(Compared("adapter", "", "the same to the last bit" if tensors == 0 else "differs", tensors))
    tuned_before, tuned_now = before["scores"]["tuned"], now["scores"]["tuned"]
    scores = [_compared(name, tuned_before.get(name), tuned_now.get(name)) for name in {**tuned_before, **tuned_now}]
    worst = max((1.0 if row.difference is None else row.difference for row in scores), default=0.0)
    lines = _table([*rows, *scores])
    lines += [f"differs: {note}" for note in _environment_notes(before, now)]
    limit = max(TOLERANCE, 1 / max(before["data"]["evaluate_samples"], 1))
    if moved:
        return lines, f"not reproduced: {', '.join(row.name for row in moved)} differ", False
    if tensors == 0 and worst == 0:
        return lines, "reproduced: the same to the last bit", True
    if worst > limit:
        return lines, f"not reproduced: a score differs by {worst:.3f}, the tolerance is {limit:.3f}", False
    return lines, f"reproduced: every score the same within {worst:.3f} (tolerance {limit:.3f})", True


def _counts(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Compared]:
    rows = [
        _compared(f"data: {key}", before["data"].get(key), now["data"].get(key))
        for key in ("train_samples", "evaluate_samples", "dropped_by_template")
    ]
    keys = {**before["data"].get("encoding", {}), **now["data"].get("encoding", {})}
    rows += [
        _compared(f"encoded: {key}", before["data"]["encoding"].get(key), now["data"]["encoding"].get(key))
        for key in keys
    ]
    return rows + [
        _compared(f"training: {key}", before["training"].get(key), now["training"].get(key))
        for key in ("steps", "tokens", "trained_tokens")
    ]


def _compared(name: str, before: Any, now: Any) -> Compared:
    numbers = isinstance(before, int | float) and isinstance(now, int | float)
    return Compared(name, before, now, abs(now - before) if numbers else None)


def _adapter_difference(before: Path, now: Path) -> float:
    """Largest |a - b| over the largest |a| of a tensor, over all tensors; 0 only for equal bits, inf for other shapes."""
    import torch
    from safetensors.torch import load_file

    first, second = (load_file(folder / "adapter/adapter_model.safetensors") for folder in (before, now))
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        return float("inf")
    worst = 0.0
    for name, one in first.items():
        if not torch.equal(one, second[name]):
            a, b = one.double(), second[name].double()
            worst = max(worst, float((a - b).abs().max()) / max(float(a.abs().max()), torch.finfo(torch.float32).tiny))
    return worst


def _environment_notes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What may explain a difference: machine, processes, and the toolkit's own commit."""
    pairs = [(key, before.get("environment", {}).get(key), value) for key, value in now["environment"].items()]
    pairs += [(key, before["training"].get(key), now["training"].get(key)) for key in ("processes", "engine")]
    pairs.append(("toolkit commit", before.get("git_commit"), now.get("git_commit")))
    return [f"{key}: {new} here, {old} then" for key, old, new in pairs if old != new]


def _table(rows: Sequence[Compared]) -> list[str]:
    def shown(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    cells = [("", "then", "now", "difference")]
    cells += [
        (row.name, shown(row.before), shown(row.now), "" if row.difference is None else f"{row.difference:.3g}")
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
