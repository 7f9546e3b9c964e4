"""`--json` and `--quiet` of the commands: one JSON object for programs; what is said to people goes out of its way."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from finetune.errors import writing

STDOUT = "-"  # the place of `--json` without a file


@dataclass
class _Answer:
    """Where the object goes while the rest is printed elsewhere, and whether it has."""

    stdout: TextIO
    told: bool = False


_ANSWER: ContextVar[_Answer | None] = ContextVar("answer", default=None)


@contextmanager
def printing(place: str | None, quiet: bool) -> Iterator[_Answer]:
    """Inside, what is printed goes to stderr where `--json` has stdout to itself, and nowhere with `--quiet`."""
    answer = _Answer(sys.stdout)
    token = _ANSWER.set(answer)
    try:
        if quiet:
            with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
                yield answer
        elif place == STDOUT:
            with redirect_stdout(sys.stderr):
                yield answer
        else:
            yield answer
    finally:
        _ANSWER.reset(token)


def tell(place: str | None, facts: Mapping[str, Any]) -> None:
    """The object that `--json` asks for, on stdout or in its file; nothing where it was not asked for.

    Raises:
        RecipeError: the file can't be written.
    """
    answer = _ANSWER.get()
    if place is None:
        return
    text = json.dumps(facts, ensure_ascii=False, indent=1)
    if place == STDOUT:
        print(text, file=answer.stdout if answer else sys.stdout, flush=True)
    else:
        file = Path(place)
        draft = file.with_name(f".{file.name}.draft")
        with writing(file):
            draft.write_text(text + "\n", encoding="utf-8")
            draft.replace(file)
    if answer:
        answer.told = True
