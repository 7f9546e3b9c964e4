"""Laboratory reports with flags by their reference ranges and grades by CTCAE.

Grades: Common Terminology Criteria for Adverse Events v5.0, National Cancer Institute, 27 November 2017, where the value
alone decides (baseline taken as normal). 0 where a value out of range has no such grade. Reports are made up; ranges are
of the size that laboratories give.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
TESTS_OF_ONE = (3, 4, 5)


@dataclass(frozen=True)
class Test:
    """One measurement as a laboratory reports it.

    Attributes:
        low, high: the reference range, in `steps` of the unit, as are all values drawn.
        steps: to one unit, as 10 for values with one decimal.
        above: beyond which value grades 2, 3 and 4 begin, above the range; None: that grade is not told by the value.
        below: the same below the range.
        times_high: `above` is in multiples of `high`, not in the unit.
        span: least and greatest value drawn, in steps.
    """

    code: str
    unit: str
    low: int
    high: int
    steps: int
    span: tuple[int, int]
    above: tuple[str | None, ...] = ()
    below: tuple[str | None, ...] = ()
    times_high: bool = False


ENZYME, PIGMENT, KIDNEY = ("3", "5", "20"), ("1.5", "3", "10"), ("1.5", "3", "6")
PLATELETS, NEUTROPHILS, LEUKOCYTES = ("75", "50", "25"), ("1.5", "1.0", "0.5"), ("3.0", "2.0", "1.0")
TESTS = {
    "SI": (
        Test("ALT", "U/L", 9, 50, 1, (5, 1400), above=ENZYME, times_high=True),
        Test("ALT", "U/L", 7, 40, 1, (5, 1100), above=ENZYME, times_high=True),
        Test("AST", "U/L", 15, 40, 1, (8, 1100), above=ENZYME, times_high=True),
        Test("TBIL", "µmol/L", 34, 205, 10, (20, 2600), above=PIGMENT, times_high=True),
        Test("CREA", "µmol/L", 57, 97, 1, (40, 750), above=KIDNEY, times_high=True),
        Test("HGB", "g/L", 130, 175, 1, (55, 195), below=("100", "80", None)),
        Test("HGB", "g/L", 115, 150, 1, (55, 170), below=("100", "80", None)),
        Test("PLT", "10^9/L", 125, 350, 1, (8, 480), below=PLATELETS),
        Test("NEUT", "10^9/L", 18, 63, 10, (1, 110), below=NEUTROPHILS),
        Test("WBC", "10^9/L", 35, 95, 10, (4, 180), below=LEUKOCYTES),
        Test("K", "mmol/L", 35, 53, 10, (20, 78), above=("5.5", "6.0", "7.0"), below=(None, "3.0", "2.5")),
        Test("MG", "mmol/L", 75, 102, 100, (22, 360), above=(None, "1.23", "3.30"), below=("0.5", "0.4", "0.3")),
        Test("GLU", "mmol/L", 39, 61, 10, (12, 160), below=("3.0", "2.2", "1.7")),
    ),
    "conventional": (
        Test("ALT", "U/L", 7, 56, 1, (5, 1500), above=ENZYME, times_high=True),
        Test("AST", "U/L", 10, 40, 1, (8, 1100), above=ENZYME, times_high=True),
        Test("TBIL", "mg/dL", 2, 12, 10, (1, 150), above=PIGMENT, times_high=True),
        Test("CREA", "mg/dL", 60, 120, 100, (40, 850), above=KIDNEY, times_high=True),
        Test("HGB", "g/dL", 132, 166, 10, (55, 190), below=("10.0", "8.0", None)),
        Test("PLT", "10^9/L", 150, 400, 1, (8, 520), below=PLATELETS),
        Test("NEUT", "10^9/L", 18, 77, 10, (1, 120), below=NEUTROPHILS),
        Test("WBC", "10^9/L", 40, 110, 10, (4, 190), below=LEUKOCYTES),
        Test("K", "mmol/L", 35, 50, 10, (20, 78), above=("5.5", "6.0", "7.0"), below=(None, "3.0", "2.5")),
        Test("MG", "mg/dL", 17, 22, 10, (5, 90), above=(None, "3.0", "8.0"), below=("1.2", "0.9", "0.7")),
        Test("GLU", "mg/dL", 70, 99, 1, (22, 280), below=("55", "40", "30")),
    ),
}  # fmt: skip


def make(rows: int, seed: int) -> list[Row]:
    return distinct(lab_report, rows, seed)


def lab_report(rng: random.Random, language: str) -> Row:
    system = "SI" if language == "zh" else "conventional"
    chosen: dict[str, Test] = {}
    for test in rng.sample(TESTS[system], 2 * max(TESTS_OF_ONE)):
        chosen.setdefault(test.code, test)
    return {"results": [result(rng, test) for test in list(chosen.values())[: rng.choice(TESTS_OF_ONE)]]}


def result(rng: random.Random, test: Test) -> Row:
    """A value of one of the test's grades, each as likely, with its flag and grade."""
    graded = values_by_grade(test)
    flag, level = rng.choice(list(graded))
    return {
        "test": test.code,
        "value": rng.choice(graded[flag, level]) / test.steps,
        "unit": test.unit,
        "low": test.low / test.steps,
        "high": test.high / test.steps,
        "flag": flag,
        "grade": level,
    }


@cache
def values_by_grade(test: Test) -> dict[tuple[str, int], list[int]]:
    """Every value that is drawn of a test, in its steps, by flag and grade."""
    graded: dict[tuple[str, int], list[int]] = {}
    for value in range(test.span[0], test.span[1] + 1):
        graded.setdefault(grade(test, Fraction(value, test.steps)), []).append(value)
    return graded


def grade(test: Test, value: Fraction) -> tuple[str, int]:
    """Flag and CTCAE grade, the highest that the value is far enough out for; a limit itself belongs to the lower one."""
    low, high = Fraction(test.low, test.steps), Fraction(test.high, test.steps)
    if low <= value <= high:
        return "normal", 0
    flag, ends = ("high", test.above) if value > high else ("low", test.below)
    level = min(1, len(ends))
    for number, end in enumerate(ends, 2):
        limit = None if end is None else Fraction(end) * (high if test.times_high else 1)
        if limit is not None and (value > limit if flag == "high" else value < limit):
            level = number
    return flag, level
