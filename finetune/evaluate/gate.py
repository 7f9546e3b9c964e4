"""The gate: what must hold of the tuned model beside its base and the release before, or nothing is exported."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import nan

from finetune.errors import GateError, RecipeError, did_you_mean
from finetune.evaluate.intervals import Interval, Intervals
from finetune.evaluate.results import Evaluated
from finetune.recipe_evaluate import GateSection

NONE = (nan, nan)  # no interval: nothing is sure


@dataclass(frozen=True)
class Check:
    """One thing that the gate asks for, as `gate.min.exact`, and what was found, in words."""

    key: str
    passed: bool
    said: str


def check_gate(section: GateSection, names: Iterable[str], elsewhere: Collection[str] = ()) -> None:
    """Raises RecipeError when the gate names a score that is not given.

    Args:
        names: of all scores.
        elsewhere: beginnings (up to the first `/`) of names that are looked at by somebody else.
    """
    known = list(names)
    problems: list[str] = []
    for key in ("min", "max_drop", "max_drop_previous"):
        given = [name for name in getattr(section, key) if name.partition("/")[0] not in elsewhere]
        problems += _unknown(f"gate.{key}", given, known)
    if problems:
        raise RecipeError(problems)


def check_rewards(rewards: Iterable[str], names: Iterable[str]) -> None:
    """Raises RecipeError when `grpo.rewards` names what no answer is scored by."""
    problems = _unknown("grpo.rewards", rewards, list(names))
    if problems:
        raise RecipeError(problems)


def judge(section: GateSection, evaluated: Evaluated) -> list[Check]:
    """Everything that the gate asks for, in its order."""
    judged = _Judged(section, evaluated)
    checks = [judged.least(name, value) for name, value in section.min.items()]
    main = next(iter(evaluated.scores["tuned"]))
    if section.better_than_base:
        checks.append(judged.better("gate.better_than_base", main, "base"))
    checks += [judged.drop("gate.max_drop", name, value, "base") for name, value in section.max_drop.items()]
    if section.better_than_previous:
        checks.append(judged.better("gate.better_than_previous", main, "previous"))
    checks += [
        judged.drop("gate.max_drop_previous", name, value, "previous")
        for name, value in section.max_drop_previous.items()
    ]
    return checks


def pass_gate(checks: Iterable[Check]) -> None:
    """Nothing, when all passed.

    Raises:
        GateError: every one that failed, with the numbers.
    """
    failed = [check.said for check in checks if not check.passed]
    if failed:
        raise GateError("the tuned model did not pass the gate:\n" + "\n".join(failed))


@dataclass(frozen=True)
class _Judged:
    """The checks of one evaluation."""

    section: GateSection
    evaluated: Evaluated

    def least(self, name: str, value: float) -> Check:
        """`gate.min`."""
        key, tuned = f"gate.min.{name}", self.evaluated.scores["tuned"].get(name)
        if tuned is None:
            return Check(key, False, f"{key}: no held-out row has this score")
        if self.section.confident:
            low, high = self._ends("tuned", name)
            which = "the lower end is" if low >= value else "the lower end is not"
            said = f"{key}: {tuned:.4f} [{low:.4f}, {high:.4f}]: {which} {value:.4f} or more (gate.confident)"
            return Check(key, low >= value, said)
        base = self.evaluated.scores["base"].get(name, nan)
        which = "not below" if tuned >= value else "below"
        return Check(key, tuned >= value, f"{key}: {tuned:.4f} is {which} {value:.4f} (base {base:.4f})")

    def better(self, key: str, name: str, other: str) -> Check:
        """The tuned model's `name` is higher than that of the `other`."""
        tuned, before = self.evaluated.scores["tuned"][name], self.evaluated.scores.get(other, {}).get(name, nan)
        of = "the base" if other == "base" else "the previous release"
        if self.section.confident:
            low, high = self._ends(_DIFFERENCE[other], name)
            which = "above" if low > 0 else "not above"
            said = f"{key}: {name}: tuned - {other} lies in [{low:.4f}, {high:.4f}]: the lower end is {which} 0 (gate.confident)"
            return Check(key, low > 0, said)
        return Check(key, tuned > before, f"{key}: {name} of the tuned model {tuned:.4f}, of {of} {before:.4f}")

    def drop(self, key: str, name: str, most: float, other: str) -> Check:
        """The tuned model's `name` is at most so far below that of the `other`."""
        key = f"{key}.{name}"
        tuned, before = self.evaluated.scores["tuned"].get(name), self.evaluated.scores.get(other, {}).get(name)
        if tuned is None or before is None:
            return Check(key, False, f"{key}: no row has this score")
        told = f"{key}: {tuned:.4f} of the tuned model, {before:.4f} of the {other}"
        if self.section.confident:
            low, high = self._ends(_DIFFERENCE[other], name)
            which = "at most" if low >= -most else "more than"
            return Check(
                key, low >= -most,
                f"{told}: tuned - {other} lies in [{low:.4f}, {high:.4f}], which is {which} {most:.4f} lower (gate.confident)",
            )  # fmt: skip
        passed = tuned - before >= -most
        return Check(key, passed, f"{told}: {'at most' if passed else 'more than'} {most:.4f} lower")

    def _ends(self, which: str, name: str) -> Interval:
        intervals = self.evaluated.intervals or Intervals({}, {}, {}, {}, {})
        return getattr(intervals, which).get(name, NONE)


_DIFFERENCE = {"base": "difference", "previous": "difference_previous"}


def _unknown(key: str, given: Iterable[str], known: list[str]) -> list[str]:
    return [
        f"{key}.{name}: not a score of this template's metric{did_you_mean(name, known)}"
        for name in given
        if name not in known
    ]
