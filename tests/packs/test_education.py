"""The education pack: every step worked again by another evaluator, every result by a formula of its own, GSM8K whole."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import pytest

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.evaluate.metrics import score
from finetune.recipe_data import SourceSection
from tests.conftest import ROOT
from tests.packs.reading import shipped

rows_of = partial(shipped, "education")

TEMPLATES = ROOT / "data_templates/education"
GSM8K = ROOT.parent / "shared/data/education/gsm8k/test.jsonl"
WORK: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
NUMBER = r"[0-9]+(?:\.[0-9]+)?"
STEP = re.compile(rf"({NUMBER}) ?([-+*/×÷]) ?({NUMBER}) ?= ?({NUMBER})")
# the result from the figures in the order in which the question states them: one formula, not steps
FORMULAS: dict[str, Callable[..., Fraction]] = {
    "change": lambda n, p, m, q, paid: paid - (n * p + m * q),
    "discount": lambda n, price, off: n * price * (1 - off / 100),
    "two_legs": lambda t, v, s, w: t * v + s * w,
    "together": lambda a, b, n: 1 / (a / n + b / n),
    "pages": lambda n, parts, more: n * (1 - 1 / parts) - more,
    "times_as_many": lambda n, k, fewer: n * (1 + 2 * k) - fewer,
    "average": lambda a, b, c: (a + b + c) / 3,
    "fence": lambda length, less, cost: (4 * length - 2 * less) * cost,
    "saving": lambda earns, spends, goal: goal / (earns - spends),
    "boxes": lambda n, k, broken, tables: (n * k - broken) / tables,
    "fuel": lambda litres, per, trip, price: litres * price * trip / per,
    "heads_and_legs": lambda heads, legs: legs / 2 - heads,  # 2 h + 4 r = legs, h + r = heads
    "meeting": lambda apart, v, w: apart / (v + w),
    "growth": lambda n, more: n * (1 + more / 100),
}


def value(expression: str) -> Fraction:
    """An arithmetic expression by Python's own grammar, exactly."""

    def of(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return WORK[type(node.op)](of(node.left), of(node.right))
        if isinstance(node, ast.UnaryOp):
            return -of(node.operand) if isinstance(node.op, ast.USub) else of(node.operand)
        assert isinstance(node, ast.Constant)
        return Fraction(str(node.value))

    return of(ast.parse(expression, mode="eval").body)


def figures(text: str) -> list[Fraction]:
    return [Fraction(number) for number in re.findall(NUMBER, text)]


def test_every_worked_step_and_every_result_is_right():
    rows = rows_of("arithmetic_steps")
    assert {row["kind"] for row in rows} == set(FORMULAS)
    for row in rows:
        working, _, result = row["answer"].partition("\n#### ")
        marks = re.findall(r"<<([^=]+)=([^>]+)>>", row["answer"])
        shown = STEP.findall(re.sub(r"<<[^>]*>>", "", working))
        assert len(marks) == len(shown) == len(working.splitlines())
        for (expression, said), (left, sign, right, end) in zip(marks, shown, strict=True):
            plain = f"{left}{sign}{right}".translate(str.maketrans("×÷", "*/"))
            assert plain == expression and end == said and value(expression) == Fraction(said), row
        assert FORMULAS[row["kind"]](*figures(row["question"])) == Fraction(result), row
    assert len({(row["kind"], *figures(row["question"])) for row in rows}) == len(rows) == 1200


def marked(steps: list[str], right: list[str], question: str) -> tuple[str, int | None, str | None]:
    """Verdict, first wrong step and slip, as a teacher would mark who has the right steps at hand."""
    wrong_before = False
    for number, (given, wanted) in enumerate(zip(steps, right, strict=True), 1):
        (left, sign, rest, end), own = STEP.findall(given)[0], STEP.findall(wanted)[0]
        if wrong_before or (left, sign, rest, end) == own:
            continue
        plain = f"{left}{sign}{rest}".translate(str.maketrans("×÷", "*/"))
        if value(plain) != Fraction(end):
            return "wrong", number, "calculation"
        if sign != own[1]:
            return "wrong", number, "operation"
        assert sorted((left, rest)) != sorted((own[0], own[2])), question
        return "wrong", number, "number"
    return "right", None, None


def test_every_verdict_is_what_a_second_marker_says():
    """The right steps come from the words of the other task: its sentences with the figures of this question."""
    from scripts.make.education.problems import Problem, sentence, solve

    slips = Counter()
    for row in rows_of("answer_grading"):
        numbers = tuple(int(figure) for figure in figures(row["question"]))
        steps = solve(row["kind"], numbers)
        assert steps is not None
        problem = Problem(row["kind"], row["language"], numbers, row["question"])
        right = [sentence(problem, number, step, marked=False) for number, step in enumerate(steps)]
        assert FORMULAS[row["kind"]](*figures(row["question"])) == Fraction(steps[-1][3])
        given = row["verdict"], row["first_wrong_step"], row["slip"]
        assert marked(row["steps"], right, row["question"]) == given, row
        slips[row["slip"]] += 1
    assert slips == {None: 322, "operation": 317, "calculation": 318, "number": 243}


def test_after_a_slip_a_pupil_goes_on_without_another_one():
    for row in rows_of("answer_grading"):
        for number, step in enumerate(row["steps"], 1):
            left, sign, right, end = STEP.findall(step)[0]
            holds = value(f"{left}{sign}{right}".translate(str.maketrans("×÷", "*/"))) == Fraction(end)
            assert holds == ((number, row["slip"]) != (row["first_wrong_step"], "calculation")), row


def test_a_marking_by_hand():
    """3 notebooks at 4 and 2 pens at 5, paid with 50: 12, 10, 22, 28. The pupil takes 2 * 6 and goes on: 24, 26."""
    right = ["3 * 4 = 12", "2 * 5 = 10", "12 + 10 = 22", "50 - 22 = 28"]
    assert marked(["3 * 4 = 12", "2 * 6 = 12", "12 + 12 = 24", "50 - 24 = 26"], right, "") == ("wrong", 2, "number")
    assert marked(["3 * 4 = 12", "2 * 5 = 11", "12 + 11 = 23", "50 - 23 = 27"], right, "") == (
        "wrong",
        2,
        "calculation",
    )
    assert marked(["3 + 4 = 7", "2 * 5 = 10", "7 + 10 = 17", "50 - 17 = 33"], right, "") == ("wrong", 1, "operation")
    assert FORMULAS["change"](*map(Fraction, (3, 4, 2, 5, 50))) == 28


def test_gsm8k_as_published_renders_whole():
    """1,319 problems of the test split; the 4,282 annotations are worked again, and each is right."""
    if not GSM8K.exists():
        pytest.skip("GSM8K's test.jsonl is not beside the project")
    template = load_template(TEMPLATES / "arithmetic_steps.yaml")
    samples = template.render_all(read_source(SourceSection(path=str(GSM8K))))
    assert len(samples) == 1319
    rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    for row, sample in zip(rows, samples, strict=True):
        assert "<<" not in sample.answer and sample.answer.endswith(f"\nAnswer: {row['answer'].split('#### ')[1]}")
        assert score([sample.answer], [sample.answer], template.metric) == {"exact": 1, "within_tolerance": 1}
    marks = [mark for row in rows for mark in re.findall(r"<<([^>]*)>>", row["answer"])]
    for expression, _, said in (mark.rpartition("=") for mark in marks):
        assert value(re.sub(r"(?<![0-9.])0+(?=[0-9])", "", expression)) == Fraction(said)  # Python reads no 05
    assert len(marks) == 4282
