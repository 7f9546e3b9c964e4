"""Execution accuracy: an answer is a program in FinQA's language, and what it comes to is right or not.

The language, as arXiv 2109.00122 and the README of github.com/czyssrs/FinQA describe it: steps `op(a, b)` joined by commas;
`#n` is the result of step n, counted from 0; `const_100` is 100, `const_m1` is -1; `table_sum(row name, none)` and its like
work on the numbers of a row of the table. Nothing of Python is evaluated.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from finetune.data.metric import Metric

Value = float | str  # a number, or yes or no
DECIMALS = 5  # to which FinQA's own evaluation rounds
MAX_STEPS = 100

_OF_TWO: dict[str, Callable[[float, float], Any]] = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv,
    "exp": operator.pow,
}  # fmt: skip
_OF_ROW: dict[str, Callable[[list[float]], float]] = {
    "table_max": max, "table_min": min, "table_sum": sum, "table_average": lambda row: sum(row) / len(row)
}  # fmt: skip
_STEPS = "|".join([*_OF_TWO, "greater", *_OF_ROW])
_START = re.compile(rf"\b(?:{_STEPS})\s*\(")
_NEXT = re.compile(rf"\)\s*,\s*(?=(?:{_STEPS})\s*\()")
_NUMBER = re.compile(r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][-+]?\d{1,3})?")


class ProgramError(ValueError):
    """The program can't be read or run."""


def program(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """The last line of the answer that holds a step is its program.

    Args:
        reference: a program (then what it comes to counts), a number, `yes` or `no`; or as metrics.with_record makes it.

    Returns:
        `execution_accuracy`: it comes to the reference's value, both rounded to 5 decimals; `program_runs`; where the
        reference is a program, `program_exact`: the same steps to the letter, but for white space.
    """
    text, expected, table = _expected(reference)
    wanted, said = _program_in(text), _program_in(answer)
    got: Value | None = None
    try:
        if expected is None:
            expected = run_program(wanted, table) if wanted else as_value(text)
        got = run_program(said, table) if said else None
    except ProgramError:
        pass
    right = got is not None and expected is not None and same_value(got, expected)
    scores = {"execution_accuracy": float(right), "program_runs": float(got is not None)}
    return scores | ({"program_exact": float(_bare(said) == _bare(wanted))} if wanted else {})


def run_program(text: str, table: Sequence[Sequence[str]] = ()) -> Value:
    """What the last step comes to, a number rounded to 5 decimals.

    Args:
        table: rows of cells as text; the first of each is its name, and of equal names the last row counts.

    Raises:
        ProgramError: it can't be read, names what is not there, or has no finite result.
    """
    body = text.strip()
    if not body.endswith(")"):
        raise ProgramError("the last step does not end")
    steps = _NEXT.split(body[:-1])
    if len(steps) > MAX_STEPS:
        raise ProgramError(f"more than {MAX_STEPS} steps")
    results: list[Value] = []
    for step in steps:
        results.append(_run_step(step, results, table))
    last = results[-1]
    return last if isinstance(last, str) else round(last, DECIMALS)


def as_value(said: Any) -> Value | None:
    """A reference value: a number, `yes` or `no`; None for anything else."""
    if isinstance(said, bool) or said is None:
        return None
    if isinstance(said, int | float):
        return float(said) if math.isfinite(said) else None
    word = str(said).strip()
    if word.lower() in ("yes", "no"):
        return word.lower()
    return _number(word)


def same_value(got: Value, wanted: Value) -> bool:
    """Equal words, or numbers that are equal once rounded to 5 decimals."""
    if isinstance(got, str) or isinstance(wanted, str):
        return got == wanted
    return round(got, DECIMALS) == round(wanted, DECIMALS)


def _run_step(step: str, results: Sequence[Value], table: Sequence[Sequence[str]]) -> Value:
    operation, _, inside = step.strip().partition("(")
    operation, parts = operation.strip(), re.split(r",\s+", inside.strip())
    if len(parts) == 1:
        parts = inside.split(",")
    first, second = ",".join(parts[:-1]).strip(), parts[-1].strip()
    if not first or not second or not re.fullmatch(_STEPS, operation):
        raise ProgramError(f"not a step: {step}")
    if operation.startswith("table_"):
        numbers = _row(", ".join(parts[:-1]).strip(), table)
        return _finite(_OF_ROW[operation](numbers))
    a, b = (_argument(part, results) for part in (first, second))
    if operation == "greater":
        return "yes" if a > b else "no"
    try:
        return _finite(_OF_TWO[operation](a, b))
    except (ZeroDivisionError, OverflowError) as error:
        raise ProgramError(f"{step}: {error}") from None


def _argument(text: str, results: Sequence[Value]) -> float:
    if re.fullmatch(r"#\d{1,3}", text):
        at = int(text[1:])
        if at >= len(results):
            raise ProgramError(f"{text}: there is no such step before")
        value: Value | None = results[at]
    else:
        value = _number(text)
    if not isinstance(value, float):
        raise ProgramError(f"{text}: not a number")
    return value


def _number(text: str) -> float | None:
    """1,234.5; 5% as 0.05; const_100, const_m1; None for anything else."""
    plain = text.strip().replace(",", "")
    if plain.startswith("const_"):
        plain = re.sub("^const_m?", lambda found: "-" if found[0].endswith("m") else "", plain)
    share = plain.endswith("%")
    plain = plain.removesuffix("%").strip()
    if not _NUMBER.fullmatch(plain):
        return None
    value = float(plain) / (100.0 if share else 1.0)
    return value if math.isfinite(value) else None


def _row(name: str, table: Sequence[Sequence[str]]) -> list[float]:
    """The numbers of a row: `$ 1,234 ( 5 )` is 1234, `5.3 %` is 0.053."""
    rows = {str(row[0]).strip(): row[1:] for row in table if row}
    cells = [str(cell).replace("$", "").split("(")[0].strip() for cell in rows.get(name, ())]
    numbers = [_number(cell) for cell in cells]
    if not numbers or None in numbers:
        raise ProgramError(f"{name}: no row of numbers has this name")
    return [number for number in numbers if number is not None]


def _finite(value: Any) -> float:
    if not isinstance(value, float) or not math.isfinite(value):  # a negative number to a broken power is complex
        raise ProgramError(f"{value}: not a finite number")
    return value


def _expected(reference: str) -> tuple[str, Value | None, list[list[str]]]:
    """Text, value and table of a reference."""
    try:
        told = json.loads(reference) if reference.startswith('{"answer": ') else None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return reference.strip(), None, []
    return told["answer"].strip(), as_value(told.get("value")), _rows(told.get("table") or [])


def _rows(table: Any) -> list[list[str]]:
    """A table as rows of cells; of a list of objects the values, in their order."""
    rows = [[*row.values()] if isinstance(row, dict) else row for row in table if isinstance(row, list | dict)]
    return [["" if cell is None else str(cell) for cell in row] for row in rows]


def _program_in(text: str) -> str:
    """The program in the last line that holds a step; empty without one."""
    for line in reversed(text.splitlines()):
        found = _START.search(line)
        if found:
            return line[found.start() : line.rfind(")") + 1] or line[found.start() :]
    return ""


def _bare(text: str) -> str:
    return re.sub(r"\s", "", text)
