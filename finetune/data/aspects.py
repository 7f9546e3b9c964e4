"""What a pair says of its two answers: which is better in which aspect, and by what margin, as numbers for the loss."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune.data.conversation import brief, read_json
from finetune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from finetune.data.rows import Sample
    from finetune.recipe_stages import RewardSection

# A row's word for one aspect -> the probability that the chosen answer is the better one. A tie is half a win for
# each (as Chiang et al. 2024, arXiv 2403.04132, count it); of an aspect that is null or not named the pair says nothing.
WORDS = {"chosen": 1.0, "rejected": 0.0, "tie": 0.5}
UNSAID = -1.0


def pair_marks(sample: Sample, section: RewardSection) -> tuple[float, ...]:
    """First what the pair says of each score (1, 0, 0.5 or UNSAID), then its margin in each: twice as many numbers.

    Without `aspects` in the recipe there is one score, and the chosen answer is the better one.

    Raises:
        DataError: each thing that is wrong as `file:line: column: what`.
    """
    problems: list[str] = []
    names = tuple(section.aspects)
    said = _said(sample.record.get(section.aspects_column), section.aspects_column, names, problems)
    margins = _margins(sample.record.get(section.margin_column), section.margin_column, names, said, problems)
    if problems:
        raise DataError([f"{sample.where}: {problem}" for problem in problems])
    return (*said, *margins)


def with_marks(samples: Iterable[Sample], section: RewardSection) -> tuple[list[Sample], list[str]]:
    """The samples with their marks, and what is wrong with the others, as `pair_marks` raises it."""
    marked: list[Sample] = []
    problems: list[str] = []
    for sample in samples:
        try:
            marked.append(replace(sample, marks=pair_marks(sample, section)))
        except DataError as error:
            problems += error.problems
    return marked, problems


def check_decided(samples: Iterable[Sample], section: RewardSection, what: str) -> None:
    """Every aspect must be decided by some of the pairs, or its score means nothing.

    Args:
        samples: with their marks.
        what: these samples, in words, such as `training pairs`.

    Raises:
        DataError: a line for each aspect that none of them decides.
    """
    decided: set[str] = set()
    for sample in samples:
        decided |= {name for name, mark in zip(section.aspects, sample.marks, strict=False) if mark in (0.0, 1.0)}
    missing = [name for name in section.aspects if name not in decided]
    if missing:
        raise DataError(
            [f"reward.aspects.{name}: none of the {what} says which answer is better in it" for name in missing]
        )


def _said(value: Any, column: str, names: Sequence[str], problems: list[str]) -> tuple[float, ...]:
    if not names:
        if value is not None:
            problems.append(f"{column}: would not be used; name the aspects in reward.aspects, with their weights")
        return (1.0,)
    if isinstance(value, str):
        value = read_json(value, column, problems)
    if not isinstance(value, dict):
        if not problems:
            problems.append(
                f"{column}: an object of aspect: chosen, rejected, tie or null is needed, got {brief(value)}"
            )
        return tuple(UNSAID for _ in names)
    problems += [f"{column}: {name!r} is not in reward.aspects{did_you_mean(str(name), names)}"
                 for name in value if name not in names]  # fmt: skip
    said = []
    for name in names:
        word = value.get(name)
        if word is not None and word not in WORDS:
            problems.append(f"{column}.{name}: chosen, rejected, tie or null is needed, got {brief(word)}")
        said.append(WORDS.get(word, UNSAID) if isinstance(word, str) else UNSAID)
    if not problems and all(mark == UNSAID for mark in said):
        problems.append(f"{column}: the pair says nothing of any aspect; leave the row out")
    return tuple(said)


def _margins(
    value: Any, column: str, names: Sequence[str], said: Sequence[float], problems: list[str]
) -> tuple[float, ...]:
    """One number is the margin of every aspect that the pair decides; an object gives each aspect its own."""
    if isinstance(value, str) and value.strip().startswith("{"):
        value = read_json(value, column, problems)
    if isinstance(value, Mapping) and names:
        problems += [f"{column}: {name!r} is not in reward.aspects{did_you_mean(str(name), names)}"
                     for name in value if name not in names]  # fmt: skip
        given = [_margin(value.get(name), f"{column}.{name}", problems) for name in names]
        problems += [f"{column}.{name}: {margin:g}, but the pair does not say which answer is better in it"
                     for name, margin, mark in zip(names, given, said, strict=True)
                     if margin and mark not in (0.0, 1.0)]  # fmt: skip
        return tuple(given)
    margin = _margin(value, column, problems)
    return tuple(margin if mark in (0.0, 1.0) else 0.0 for mark in said)


def _margin(value: Any, at: str, problems: list[str]) -> float:
    """A number, or its text; null and no column are 0."""
    if value is None or value == "":
        return 0.0
    try:
        number = float(json.loads(value) if isinstance(value, str) else value)
    except (ValueError, TypeError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        problems.append(f"{at}: a number of 0 or more is needed, got {brief(value)}")
        return 0.0
    return number
