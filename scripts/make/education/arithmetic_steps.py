"""School word problems with worked steps, in GSM8K's published form: `question`, and `answer` with <<2*3=6>> and ####.

GSM8K itself (Cobbe et al. 2021, arXiv:2110.14168) is read by the same data template without any converting.
"""

from __future__ import annotations

import random
from itertools import islice

from scripts.make.cases import Row
from scripts.make.education.problems import Problem, problems, sentence, solve

ROWS, SEED = 1200, 17


def make(rows: int, seed: int) -> list[Row]:
    return [worked(problem) for problem in islice(problems(random.Random(f"arithmetic_steps {seed}")), rows)]


def worked(problem: Problem) -> Row:
    """The problem and its steps, with calculator annotations."""
    steps = solve(problem.kind, problem.figures)
    assert steps  # `problems` gives no other
    lines = [sentence(problem, number, step, marked=True) for number, step in enumerate(steps)]
    return {
        "language": problem.language,
        "kind": problem.kind,
        "question": problem.question,
        "answer": "\n".join([*lines, f"#### {steps[-1][3]}"]),
    }
