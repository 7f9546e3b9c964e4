"""The one error type for a user's mistake; the command line prints it without a traceback and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class RecipeError(Exception):
    """What a user can mend. Holds all problems found, each one line: where, what was wrong, what is allowed."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(RecipeError):
    """The same for rows and data templates: `file:line: column: what was wrong`."""


class CheckpointError(RecipeError):
    """A checkpoint that can't be used: one line a file, `folder: file: what is wrong with it`."""


class GateError(Exception):
    """The tuned model did not reach the recipe's gate, or a proof failed: nothing is exported. Exit code 3."""


class TrainingError(Exception):
    """Training could not go on: a loss that is not finite, memory that does not suffice. Exit code 5."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the nearest spelling, else the allowed words when they are few, else nothing."""
    names = sorted(allowed)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; allowed: {', '.join(names)}" if 0 < len(names) <= 30 else ""
