"""A plan as lines for people and as plain values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.plan.advice import ROOM, Advice
from finetune.plan.estimate import Estimate
from finetune.plan.hardware import GIB, Hardware
from finetune.plan.memory import Share


@dataclass(frozen=True)
class Planned:
    """One stage's plan with its advice. `name`: of the stage in a chain, empty where it is alone."""

    name: str
    estimate: Estimate
    advice: Sequence[Advice]


def size(number: float) -> str:
    return f"{number / GIB:.2f} GiB" if number >= GIB / 10 else f"{number / (1 << 20):.1f} MiB"


def span(seconds: float) -> str:
    """`3 h 12 min`, `4 min 10 s`, `8.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def verdict(planned: Planned, hardware: Hardware) -> str:
    """Whether it fits, in a line."""
    total, whole = planned.estimate.memory.total, hardware.memory
    share = f"{size(total)} of {size(whole)} ({total / whole:.0%})"
    if total > whole:
        return f"does not fit: {share}"
    return f"fits: {share}" if total <= ROOM * whole else f"fits barely: {share}; what the plan misses may be more"


def lines(planned: Planned, hardware: Hardware, share: Share, price: float | None) -> list[tuple[str, str]]:
    """(what, how much) a line."""
    own = planned.estimate
    memory, shape, layout = own.memory, own.shape, own.layout
    found = [
        ("hardware", f"{hardware.name}{_processes(share)}: {hardware.source}"),
        ("model", f"{shape.parameters:,} parameters, {shape.trained:,} trained; computed in {own.dtype}, {shape.attention}"),
        ("rows", f"{own.rows.items:,} an epoch, {own.rows.lengths.mean():,.0f} tokens on average, at most "
                 f"{own.rows.longest:,} ({own.rows.how})"),
        ("steps", layout.line()),
        ("step", f"{own.tokens:,.0f} tokens a process, {own.filled:,.0f} with filling; the largest micro-batch "
                 f"{own.largest.rows} x {own.largest.width}"),
    ]  # fmt: skip
    found += [(name, size(part)) for name, part in memory.parts.items()]
    if memory.loading > memory.training:
        found.append(("loading", f"{size(memory.loading)} while the base is converted, more than training takes"))
    found.append(("memory", verdict(planned, hardware)))
    pace = f"{own.step:.2f} s a step, {own.tokens / own.step:,.0f} tokens/s a process"
    before = f", {span(own.before)} for the reference before" if own.before else ""
    found.append(("time", f"{pace}; {span(own.epoch_seconds)} an epoch, {span(own.seconds)} for the run{before}"))
    found.append(("efficiency", hardware.efficiency.source))
    if price is not None:
        epoch, run = (price * share.processes * seconds / 3600 for seconds in (own.epoch_seconds, own.seconds))
        found.append(("cost", f"{epoch:,.2f} an epoch, {run:,.2f} for the run, at {price:g} a device and hour"))
    return found


def advice_lines(planned: Planned) -> list[str]:
    """A change a line."""
    now = planned.estimate
    found = []
    for one in planned.advice:
        words = " ".join(f"--set {_quoted(word)}" for word in one.settings)
        times = one.seconds / now.seconds if now.seconds else 1.0
        fits = "fits" if one.fits else "still too much"
        note = f"; {one.note}" if one.note else ""
        found.append(f"{words}: {size(one.memory)}, {fits}, {times:.2f} times the time{note}")
    return found


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _processes(share: Share) -> str:
    return f" x {share.processes} ({share.engine})" if share.processes > 1 else ""


def as_json(planned: Planned, hardware: Hardware, share: Share, price: float | None) -> dict[str, Any]:
    """The same as plain values: bytes, seconds, FLOP/s."""
    own = planned.estimate
    return {
        "stage": planned.name,
        "hardware": {
            "name": hardware.name, "memory": hardware.memory, "flops": dict(hardware.flops),
            "bandwidth": hardware.bandwidth, "source": hardware.source, "efficiency": hardware.efficiency.source,
            "processes": share.processes, "engine": share.engine,
        },
        "model": {
            "parameters": own.shape.parameters, "trained": own.shape.trained, "dtype": own.dtype,
            "attention": own.shape.attention,
        },
        "rows": {
            "items": own.rows.items, "mean_length": float(own.rows.lengths.mean()), "longest": own.rows.longest,
            "exact": own.rows.exact, "how": own.rows.how,
        },
        "layout": {
            "global_batch": own.layout.global_batch, "micro_batch": own.layout.micro_batch,
            "accumulation": own.layout.accumulation, "steps": own.layout.steps, "epoch_steps": own.epoch_steps,
        },
        "memory": own.memory.parts | {"loading": own.memory.loading, "total": own.memory.total},
        "fits": own.fits(hardware),
        "time": {
            "step": own.step, "epoch": own.epoch_seconds, "run": own.seconds, "before": own.before,
            "tokens_per_second": own.tokens / own.step,
        },
        "cost": None if price is None else {
            "epoch": price * share.processes * own.epoch_seconds / 3600,
            "run": price * share.processes * own.seconds / 3600,
        },
        "advice": [
            {"set": list(one.settings), "memory": one.memory, "seconds": one.seconds, "fits": one.fits, "note": one.note}
            for one in planned.advice
        ],
    }  # fmt: skip
