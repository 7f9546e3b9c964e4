"""What one step of arithmetic makes of a passage's numbers, and whether a number that it gives is more than chance.

Of 20 numbers there are 190 differences, so a number of few digits that somebody makes up is nearly always the difference,
the sum or the ratio of some two of them. A result counts only where a number made up in its place would seldom have been
hit: with m results between half and twice its size v, and written to the step s, s * m / (1.5 v) of all numbers of that size
are hit, and this must be at most CHANCE. So a result needs more digits the more numbers a passage has: among the 45
differences of ten numbers about three or four; one of two digits is hardly ever taken.
"""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from finetune.data.metric import Step
from finetune.evaluate.figures import Figure

CHANCE = 0.05
LOOK_BACK = 400  # characters in which a working begins
MOST = 600  # numbers of a passage that steps are tried with; the first ones
_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip
_SIGNS = {mark: mark for mark in "*/+-()"} | {"×": "*", "·": "*", "x": "*", "X": "*", "÷": "/", "^": "**"}
_EQUALS = re.compile("[=≈]")
_LABEL_ENDS = re.compile(r"[:：]\s*[$¥€£+-]?\s*\Z")
_ENDS = re.compile("[=≈;；，,:：\n。]|\\b(?:so|is|are|and)\\b")


@dataclass(frozen=True)
class Results:
    """What the steps that are allowed make of a passage: `values` (n,), sorted by size, and `sizes`, without sign."""

    values: np.ndarray
    sizes: np.ndarray

    def reach(self, value: float, step: float, either_sign: bool, chance: float = CHANCE) -> bool:
        """Whether one of them is this value as far as it is written, and not by more than this chance."""
        size = abs(value)
        if not size or not len(self.values):
            return False
        low, high = np.searchsorted(self.sizes, (size / 2, size * 2))
        if step * (high - low) / (1.5 * size) > chance:
            return False
        near = self.values[low:high]
        near = abs(near) if either_sign else near
        return bool((abs(near - (size if either_sign else value)) <= step / 2 * (1 + 1e-9)).any())


def results(figures: Sequence[Figure], text: str, steps: Sequence[Step], within: str) -> Results:
    """What `steps` make of a passage's figures.

    Args:
        figures, text: of the passage; dates, times and a table's head of years are no operands.
        within: `passage`, any two numbers; `line`, two of one line.
    """
    years = _years(figures)
    numbers = [one for one in figures if one.value is not None and one.start not in years][:MOST]
    lines: dict[int, list[float]] = {}
    for one in numbers:
        lines.setdefault(one.line, []).append(float(one.value or 0))
    found = []
    for line in lines if within == "line" else (None,):
        group = [one for one in numbers if line in (None, one.line)]
        values, plain = (np.unique([float(one.value or 0) for one in its])
                         for its in (group, [one for one in group if not one.percent]))  # fmt: skip
        found += _of_pairs(values, [step for step in steps if step != "percent_change"])
        found += _of_pairs(plain, [step for step in steps if step == "percent_change"])  # of 3 % and 4 %: points
    runs = [run for run in (*lines.values(), *_columns(numbers, text)) if len(run) > 2]
    if "total" in steps:
        found.append(np.array([sum(run) for run in runs]))
    if "mean" in steps:
        found.append(np.array([sum(run) / len(run) for run in runs]))
    values = np.unique(np.concatenate(found)) if found else np.zeros(0)
    values = values[np.isfinite(values)]
    values = values[np.argsort(abs(values), kind="stable")]
    return Results(values, abs(values))


def counts(text: str) -> set[Decimal]:
    """How many items the lists and tables of a text have, and how many lines it has."""
    lines = text.splitlines()
    rows = [
        sum(line.lstrip().startswith("|") for line in lines),
        sum(bool(re.match(r"\s*(?:[-*•]|\d+[.)、])\s", line)) for line in lines),
    ]
    # A table's header and the rule below it are no items.
    return {Decimal(count) for count in (len(lines), len(lines) - 1, rows[0] - 1, rows[0] - 2, rows[1]) if count > 0}


def worked_out(text: str, at: int, figures: Sequence[Figure]) -> tuple[list[Figure], float] | None:
    """The operands, and what they come to, of the working that ends where a figure begins; None without one.

    A working is "a - b = ", or a line "a - b" before the line "label: ".

    Args:
        text: of the answer. at: where the figure begins. figures: of the answer.
    """
    start = max(text.rfind("\n", 0, at) + 1, at - LOOK_BACK)
    signs = [*_EQUALS.finditer(text, start, at)]
    if signs and re.search(r"[\w)]", text[signs[-1].end() : at].replace("约", "")):
        return None
    if not signs and not (text[start - 1 : start] == "\n" and _LABEL_ENDS.search(text[start:at])):
        return None
    end = signs[-1].start() if signs else start - 1
    start = start if signs else max(text.rfind("\n", 0, end) + 1, end - LOOK_BACK)
    near = [one for one in figures if start <= one.start < end]
    within = {place for one in near for place in range(one.start, one.start + len(one.text))}
    ends = [match.end() for match in _ENDS.finditer(text, start, end) if match.start() not in within]
    expression, operands = _expression(text, ends[-1] if ends else start, end, near)
    value = _evaluated(expression)
    return (operands, value) if value is not None and len(operands) > 1 else None


def _expression(text: str, begin: int, end: int, figures: Sequence[Figure]) -> tuple[str, list[Figure]]:
    """Numbers, signs and parentheses of a piece of text, and which figures they are; words and units are left out.

    Two numbers without a sign between them belong to no expression: the second begins one.
    """
    at = {one.start: one for one in figures if one.value is not None}
    parts: list[str] = []
    operands: list[Figure] = []
    place = begin
    while place < end:
        if place in at:
            one = at[place]
            if parts and (parts[-1] == ")" or parts[-1][0].isdecimal()):
                parts, operands = [], []
            value = abs(float(one.value or 0)) / (100 if one.percent == 1 else 1000 if one.percent else 1)
            parts.append(repr(value))
            operands.append(one)
            place += len(one.text)
            continue
        mark = text[place]
        letters = text[max(0, place - 1)].isalpha() + text[place + 1 : place + 2].isalpha()
        if mark in _SIGNS and not (letters and mark in "xX") and not (letters == 2 and mark in "/-·"):
            parts.append(_SIGNS[mark])
        place += 1
    return "".join(parts), operands


def _evaluated(expression: str) -> float | None:
    """The value of an expression of numbers, + - * / ** and parentheses; None for anything else."""
    try:
        tree = ast.parse(expression, mode="eval").body if 2 < len(expression) < 400 else None
        value = _value(tree) if isinstance(tree, ast.BinOp) else None
    except (SyntaxError, ValueError, ArithmeticError, TypeError, RecursionError):
        return None
    return value if value is not None and np.isfinite(value) else None


def _value(node: ast.AST) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, float):
        return node.value
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_value(node.operand))
    if not isinstance(node, ast.BinOp) or type(node.op) not in _OPERATORS:
        raise ValueError("no arithmetic")
    left, right = _value(node.left), _value(node.right)
    value = _OPERATORS[type(node.op)](left, right)
    if isinstance(value, complex):
        raise ValueError("no real number")
    return float(value)


def _of_pairs(values: np.ndarray, steps: Sequence[Step]) -> list[np.ndarray]:
    """Each step of every two different values, (pairs,)."""
    one, other = np.triu_indices(len(values), 1)
    a, b = values[one], values[other]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        of = {
            "sum": [a + b],
            "difference": [a - b, b - a],
            "product": [a * b],
            "ratio": [a / b, b / a],
            "percent_change": [(a - b) / abs(b) * 100, (b - a) / abs(a) * 100],
            "mean": [(a + b) / 2],
        }
        return [part for step in steps for part in of.get(step, [])]


def _columns(numbers: Sequence[Figure], text: str) -> list[list[float]]:
    """The numbers of each column of Markdown tables (lines that begin with a bar)."""
    lines = text.split("\n")
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
    found: dict[tuple[int, int], list[float]] = {}
    table = 0
    for index, line in enumerate(lines):
        if not line.startswith("|"):
            table = index + 1
            continue
        for one in numbers:
            if one.line == index:
                cell = line.count("|", 0, one.start - int(starts[index]))
                found.setdefault((table, cell), []).append(float(one.value or 0))
    return list(found.values())


def _years(numbers: Sequence[Figure]) -> set[int]:
    """Places of numbers that look like years in lines of several of them, as a table's head has."""
    alike = [
        one
        for one in numbers
        if one.value is not None and 1900 <= one.value <= 2100 and one.step == 1 and one.digits == 4 and not one.scaled
    ]
    times = Counter(one.line for one in alike)
    return {one.start for one in alike if times[one.line] > 1}
