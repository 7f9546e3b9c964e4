"""What bench_train.py makes of its runs: FLOP of a step, medians, whether the losses agree, the table. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

# How far the loss of a step may be from the other side's, as a share of it, and the mean of all steps. float32: sums in
# another order, and what Adam makes of them (its first steps move every weight by the rate, however small the gradient).
# bfloat16: 8 bits of mantissa, 2^-8 = 0.4 % a rounding; a young adapter adds less than that to many an output.
NOISE = {"float32": (2e-3, 1e-3), "bfloat16": (2e-2, 1e-2)}
OF_EXACT = (3e-2, 1.5e-2)  # the same for ours in bfloat16, from ours in float32
OF_EXACT_PAIRS = (1e-1, 5e-2)  # their loss is what the young adapter changes alone, and falls to a third in four steps
COLUMNS = (
    "loop", "real tokens/s", "trained tokens/s", "ours to it", "first step, s", "peak, GiB", "GFLOP/s needed",
    "of the matmul peak", "others' CPU", "loss of the steps",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training run, as its process told it.

    Attributes:
        first: seconds from the start of the process to the end of the first step.
        seconds: of each later step.
        losses: of all steps.
        peak: bytes, over all of its processes.
        others: the share of the machine's CPU time that other processes took meanwhile.
    """

    loop: str
    first: float
    seconds: tuple[float, ...]
    losses: tuple[float, ...]
    peak: int
    others: float = 0.0


def flop_of_step(step: Mapping[str, Any], model: Mapping[str, int], reference: bool) -> float:
    """FLOP that a LoRA step needs, the same for every loop however it computes.

    A frozen parameter of the decoder: 2 FLOP a token forward, 2 backward (the input's gradient); one of the adapter: 2 more, its
    own gradient. Causal attention over T tokens: two products of T^2/2 x heads x head width forward, twice that backward, so
    6 T^2 x heads x head width a layer in all. The head: 4 FLOP a parameter, for trained tokens only.

    Args:
        step: `lengths` of its sequences, and `trained` tokens of each.
        reference: of a preference loss, a forward pass of the base more.
    """
    passes = 6 if reference else 4
    total = 0.0
    for length, trained in zip(step["lengths"], step["trained"], strict=True):
        total += length * (passes * model["body"] + 6 * model["adapter"])
        total += (8 if reference else 6) * model["layers"] * model["attention"] * length**2
        total += passes * model["head"] * trained
    return total


def speeds(
    runs: Sequence[Run], steps: Sequence[Mapping[str, Any]], model: Mapping[str, int], pairs: bool
) -> dict[str, float]:
    """Medians over the measured steps of all runs of one loop: tokens/s, trained tokens/s, FLOP/s."""
    tokens, trained, flop = [], [], []
    for run in runs:
        for step, seconds in zip(steps[1:], run.seconds, strict=True):
            tokens.append(sum(step["lengths"]) / seconds)
            trained.append(sum(step["trained"]) / seconds)
            flop.append(flop_of_step(step, model, pairs) / seconds)
    return {
        "tokens": median(tokens), "trained": median(trained), "flop": median(flop),
        "first": median(run.first for run in runs), "peak": max(run.peak for run in runs) / 2**30,
    }  # fmt: skip


def padded_share(steps: Sequence[Mapping[str, Any]]) -> float:
    """Share of positions that are padding where each step is one batch."""
    positions = sum(len(step["lengths"]) * max(step["lengths"]) for step in steps)
    return 1 - sum(sum(step["lengths"]) for step in steps) / positions


def apart(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """How far one curve is from the other at most and in the mean, as a share of the other's loss."""
    shares = [abs(a - b) / abs(b) for a, b in zip(one, other, strict=True)]
    return max(shares), fmean(shares)


def disagreements(
    runs: Mapping[str, Sequence[Run]], dtype: str, exact: Run | None = None, pairs: bool = False
) -> list[str]:
    """A line for each peer whose loss curve is not ours within the dtype's noise.

    Args:
        exact: ours in float32. With it, a line where ours is not within OF_EXACT of it; how far peers are is theirs.
        pairs: what is trained on.
    """
    named, other, limits = "ours", runs["ours"][0], NOISE[dtype]
    if exact is not None:
        named, other, runs = "the float32 curve", exact, {"ours": runs["ours"]}
        limits = OF_EXACT_PAIRS if pairs else OF_EXACT
    found = []
    for loop, its in runs.items():
        for run in its:
            most, mean = apart(run.losses, other.losses)
            if most > limits[0] or mean > limits[1]:
                found.append(f"{loop}: its losses are {most:.1e} from {named} at most and {mean:.1e} in the mean; "
                             f"allowed in {dtype}: {limits[0]:.1e} and {limits[1]:.1e}")  # fmt: skip
    return found


def distances(runs: Mapping[str, Sequence[Run]], exact: Run) -> str:
    """For people: the float32 curve, and how far each loop's is from it."""
    curve = " ".join(f"{loss:.4f}" for loss in exact.losses)
    far = {loop: max(apart(run.losses, exact.losses) for run in its) for loop, its in runs.items()}
    told = ", ".join(f"{loop} {most:.2%} ({mean:.2%})" for loop, (most, mean) in far.items())
    return f"losses of ours in float32: {curve}; away from it at most (in the mean): {told}"


def table(runs: Mapping[str, Sequence[Run]], facts: Mapping[str, Any], peak: float, pairs: bool) -> list[list[str]]:
    """A row a loop, ours first; `ours to it`: our real tokens/s over those of the row's loop."""
    measured = {loop: speeds(its, facts["steps"], facts["model"], pairs) for loop, its in runs.items()}
    ours = measured["ours"]["tokens"]
    rows = []
    for loop, found in measured.items():
        rows.append([
            loop, f"{found['tokens']:.0f}", f"{found['trained']:.0f}", f"{ours / found['tokens']:.2f}",
            f"{found['first']:.1f}", f"{found['peak']:.2f}", f"{found['flop'] / 1e9:.0f}", f"{found['flop'] / peak:.1%}",
            f"{max(run.others for run in runs[loop]):.0%}",
            " ".join(f"{loss:.4f}" for loss in runs[loop][0].losses),
        ])  # fmt: skip
    return rows


def efficiency(runs: Mapping[str, Sequence[Run]], processes: int) -> float:
    """Speed of so many processes over as many times that of one: medians of all measured steps."""
    one, several = (median(seconds for run in its for seconds in run.seconds) for its in runs.values())
    return one / several / processes


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))
