"""The gate: scores below the recipe's least values stop the run before anything is exported."""

from __future__ import annotations

from collections.abc import Iterable
from math import nan

from finetune.errors import GateError, RecipeError, did_you_mean
from finetune.evaluate.intervals import Intervals
from finetune.evaluate.metrics import Scores
from finetune.recipe import GateSection

NONE = (nan, nan)  # no interval: nothing is sure


def check_gate(section: GateSection, names: Iterable[str]) -> None:
    """Raises RecipeError when the gate names a score that the template's metric does not give.

    Args:
        names: of all scores.
    """
    _check_names("gate.min", section.min, list(names))


def check_rewards(rewards: Iterable[str], names: Iterable[str]) -> None:
    """Raises RecipeError when `grpo.rewards` names what no answer is scored by."""
    _check_names("grpo.rewards", rewards, list(names))


def pass_gate(section: GateSection, base: Scores, tuned: Scores, intervals: Intervals | None = None) -> None:
    """Nothing, when every score is high enough.

    Raises:
        GateError: every score that is too low, with the numbers.
    """
    lacking = [name for name in section.min if name not in tuned]
    failed = [f"gate.min.{name}: no held-out row has this score" for name in lacking]
    least = {name: value for name, value in section.min.items() if name in tuned}
    main = next(iter(tuned)) if section.better_than_base else None
    if section.confident:
        failed += _not_surely(least, main, tuned, intervals or Intervals({}, {}, {}, {}, {}))
    else:
        failed += _too_low(least, main, base, tuned)
    if failed:
        raise GateError("the tuned model did not pass the gate:\n" + "\n".join(failed))


def _too_low(least: Scores, main: str | None, base: Scores, tuned: Scores) -> list[str]:
    failed = [
        f"gate.min.{name}: {tuned[name]:.4f} is below {value:.4f} (base {base[name]:.4f})"
        for name, value in least.items()
        if tuned[name] < value
    ]
    if main is not None and not tuned[main] > base[main]:
        failed.append(
            f"gate.better_than_base: {main} of the tuned model {tuned[main]:.4f}, of the base {base[main]:.4f}"
        )
    return failed


def _not_surely(least: Scores, main: str | None, tuned: Scores, intervals: Intervals) -> list[str]:
    """What the lower ends of intervals do not reach."""
    failed = []
    for name, value in least.items():
        low, high = intervals.tuned.get(name, NONE)
        if not low >= value:
            failed.append(
                f"gate.min.{name}: {tuned[name]:.4f} [{low:.4f}, {high:.4f}]: the lower end is not {value:.4f} or more "
                "(gate.confident)"
            )
    low, high = intervals.difference.get(main or "", NONE)
    if main is not None and not low > 0:
        failed.append(
            f"gate.better_than_base: {main}: tuned - base lies in [{low:.4f}, {high:.4f}]: the lower end is not above 0 "
            "(gate.confident)"
        )
    return failed


def _check_names(key: str, given: Iterable[str], known: list[str]) -> None:
    problems = [
        f"{key}.{name}: not a score of this template's metric{did_you_mean(name, known)}"
        for name in given
        if name not in known
    ]
    if problems:
        raise RecipeError(problems)
