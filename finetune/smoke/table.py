"""What was done, a line each as it ends: ok, failed or left out, how long it took, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from finetune.errors import RecipeError, first_line

Status = Literal["ok", "failed", "left out", "no"]
WIDTH = 9  # of a step's name


@dataclass
class Step:
    """`no` is an answer that stops nothing, as of the packing probe where the recipe does not pack."""

    name: str
    status: Status = "ok"
    seconds: float = 0.0
    what: str = ""

    def line(self) -> str:
        return f"{self.status:<8}  {self.name:<{WIDTH}}  {self.seconds:5.1f} s  {self.what}".rstrip()


class Table:
    """Steps in order. `say` gets a step's line when it ends."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.steps: list[Step] = []
        self._say = say

    def note(self, line: str) -> None:
        """Something to be known of the step before."""
        self._say(f"{'':<8}  {line}")

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """One step; what is raised in it is its failure, and goes on its way."""
        step, started = Step(name), time.perf_counter()
        self.steps.append(step)
        try:
            yield step
        except BaseException as error:
            step.status, step.what = "failed", _reason(error)
            raise
        finally:
            step.seconds = time.perf_counter() - started
            self._say(step.line())

    @contextmanager
    def parts(self, what_of: Callable[[str], str]) -> Iterator[Callable[[str], None]]:
        """Steps that a run enters one after the other: a function that ends one and begins the next, by its name.

        A part that was there before is added to its earlier line.

        Args:
            what_of: asked what came of a part that has ended.
        """
        current: list[tuple[Step, float]] = []

        def end() -> None:
            if current:
                step, started = current.pop()
                step.seconds += time.perf_counter() - started
                step.what = step.what if step.status == "failed" else what_of(step.name)

        def enter(name: str) -> None:
            end()
            known = next((step for step in new if step.name == name), None)
            if known is None:
                known = Step(name)
                new.append(known)
            current.append((known, time.perf_counter()))

        new: list[Step] = []
        try:
            yield enter
        except BaseException as error:
            if current:
                current[0][0].status, current[0][0].what = "failed", _reason(error)
            raise
        finally:
            end()
            self.steps += new
            for step in new:
                self._say(step.line())


def _reason(error: BaseException) -> str:
    if isinstance(error, RecipeError):
        return error.problems[0]
    return first_line(error) if str(error) else type(error).__name__
