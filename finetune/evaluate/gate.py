"""The gate: scores below the recipe's least values stop the run before anything is exported."""

from __future__ import annotations

from collections.abc import Iterable

from finetune.errors import GateError, RecipeError, did_you_mean
from finetune.evaluate.metrics import Scores
from finetune.recipe import GateSection


def check_gate(section: GateSection, names: Iterable[str]) -> None:
    """Raises RecipeError when the gate names a score that the template's metric does not give."""
    _check_names("gate.min", section.min, list(names))


def check_rewards(rewards: Iterable[str], names: Iterable[str]) -> None:
    """Raises RecipeError when `grpo.rewards` names what no answer is scored by."""
    _check_names("grpo.rewards", rewards, list(names))


def pass_gate(section: GateSection, base: Scores, tuned: Scores) -> None:
    """Nothing, when every score is high enough.

    Raises:
        GateError: every score that is too low, with the numbers.
    """
    failed = [
        f"gate.min.{name}: {tuned[name]:.4f} is below {least:.4f} (base {base[name]:.4f})"
        for name, least in section.min.items()
        if tuned[name] < least
    ]
    main = next(iter(tuned))
    if section.better_than_base and not tuned[main] > base[main]:
        failed.append(
            f"gate.better_than_base: {main} of the tuned model {tuned[main]:.4f}, of the base {base[main]:.4f}"
        )
    if failed:
        raise GateError("the tuned model did not pass the gate:\n" + "\n".join(failed))


def _check_names(key: str, given: Iterable[str], known: list[str]) -> None:
    problems = [
        f"{key}.{name}: not a score of this template's metric{did_you_mean(name, known)}"
        for name in given
        if name not in known
    ]
    if problems:
        raise RecipeError(problems)
