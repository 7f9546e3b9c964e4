"""Pupils' worked solutions, right or with one slip: a wrong calculation, a wrong operation, a figure copied wrong.

Later steps go on from the slip without another one, as a pupil's would.
"""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import islice

from scripts.make.cases import Row
from scripts.make.education.problems import (
    OPERATIONS,
    SHAPES,
    Problem,
    operand,
    problems,
    sentence,
    solve,
    written,
)

ROWS, SEED = 1200, 17
SLIPS = ("calculation", "operation", "number")
OTHER = {"+": "-*", "-": "+", "*": "+/", "/": "*-"}  # what a pupil takes instead
TRIES = 40  # of one slip: the figures of some problems have no other that works out
Steps = list[tuple[str, str, str, str]]


def make(rows: int, seed: int) -> list[Row]:
    rng = random.Random(f"answer_grading {seed}")
    drawn = problems(random.Random(f"problems {seed}"))
    return [
        {"case_id": f"{number:05d}", **graded(rng, problem)} for number, problem in enumerate(islice(drawn, rows), 1)
    ]


def graded(rng: random.Random, problem: Problem) -> Row:
    """The problem with a pupil's steps, which are right as often as each kind of slip."""
    right = rng.random() < 1 / (1 + len(SLIPS))
    slip, at, steps = (None, None, solve(problem.kind, problem.figures)) if right else with_slip(rng, problem)
    return {
        "language": problem.language,
        "kind": problem.kind,
        "question": problem.question,
        "steps": [sentence(problem, number, step, marked=False) for number, step in enumerate(steps or ())],
        "verdict": "right" if right else "wrong",
        "first_wrong_step": None if at is None else at + 1,
        "slip": slip,
    }


def with_slip(rng: random.Random, problem: Problem) -> tuple[str, int, Steps]:
    """A slip, the step it is in (from 0), and the steps; another slip where the first one can't be written anywhere."""
    tries = [slip for slip in rng.sample(SLIPS, len(SLIPS)) for _ in range(TRIES)]
    for slip in tries:
        at = rng.randrange(len(SHAPES[problem.kind]))
        steps = slipped(rng, problem, at, slip)
        if steps:
            return slip, at, steps
    raise SystemExit(f"{problem.question}: no slip can be written")


def slipped(rng: random.Random, problem: Problem, at: int, slip: str) -> Steps | None:
    """The steps with `slip` in step `at` (from 0) and what follows from it; None where it can't be written."""
    right = solve(problem.kind, problem.figures)
    assert right
    results: list[Fraction] = []
    steps: Steps = []
    for number, (left_place, sign, right_place) in enumerate(SHAPES[problem.kind]):
        sides = [operand(place, problem.figures, results) for place in (left_place, right_place)]
        if number == at and slip == "operation":
            sign = rng.choice(OTHER[sign])
        if number == at and slip == "number":
            copied = [side for side, place in enumerate((left_place, right_place)) if isinstance(place, int)]
            if not copied:
                return None
            side = rng.choice(copied)
            sides[side] = misread(rng, sides[side])
        value = OPERATIONS[sign](*sides)
        if number == at and slip == "calculation":
            value += rng.choice((-10, -2, -1, 1, 2, 10))
        results.append(value)
        texts = written(sides[0]), written(sides[1]), written(value)
        if None in texts:
            return None
        steps.append((str(texts[0]), sign, str(texts[1]), str(texts[2])))
    return None if steps[at][3] == right[at][3] else steps  # 2 * 2 for 2 + 2 is no slip that could be seen


def misread(rng: random.Random, figure: Fraction) -> Fraction:
    """A figure near it: two digits exchanged, or one digit off by one or two."""
    digits = str(int(figure))
    if len(digits) > 1 and len(set(digits)) > 1 and digits[-1] != "0" and rng.random() < 0.5:
        return Fraction(int(digits[:-2] + digits[-1] + digits[-2]))
    changed = int(figure) + rng.choice((-2, -1, 1, 2)) * 10 ** rng.randrange(len(digits))
    return Fraction(changed) if changed > 0 else figure + 1
