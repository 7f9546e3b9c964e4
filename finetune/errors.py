"""The one error type for a user's mistake; the command line prints it without a traceback and exits with 2."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


def first_line(error: BaseException) -> str:
    """The first line of what a library's error says; its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def did_you_mean(word: str, allowed: Iterable[str], otherwise: str = "allowed") -> str:
    """`; did you mean 'x'?` with the nearest spelling, else `; allowed: ` and the words when they are few, else nothing."""
    names = sorted(allowed)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {otherwise}: {', '.join(names)}" if 0 < len(names) <= 30 else ""


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """A place that can't be written is the user's mistake; a full disk is not, and stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise RecipeError(f"{place}: can't be written: {error.strerror or error}") from None


def plainly(item: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says, in the words of somebody who writes YAML."""
    kinds = {
        "model_type": "a section of keys is needed", "dict_type": "a mapping of keys to values is needed",
        "tuple_type": "a list is needed", "list_type": "a list is needed", "string_type": "text is needed",
        "is_instance_of": "text is needed", "path_type": "text is needed", "too_short": "at least one is needed",
    }  # fmt: skip
    message = kinds.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]
