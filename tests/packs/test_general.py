"""The forgetting probe: its questions have one right answer, which the question does not give away."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections import Counter

import pytest

from finetune.data.metric import Metric
from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.evaluate.citations import bare, holds
from finetune.evaluate.contains import contains
from finetune.recipe_data import SourceSection
from scripts.make.general import questions
from tests.conftest import ROOT

FILE = ROOT / "data_templates/general/questions.sample.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
SUMS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def test_half_of_each_language_and_as_many_of_each_kind():
    assert Counter((row["language"], row["kind"]) for row in ROWS) == {
        (language, kind): 30
        for language in ("en", "zh")
        for kind in ("knowledge", "arithmetic", "language", "common_sense")
    }
    assert len({row["question"] for row in ROWS}) == len({row["id"] for row in ROWS}) == len(ROWS) == 240
    assert Counter(row["language"] for row in ROWS[:40]) == {"en": 20, "zh": 20}


def test_the_question_does_not_hold_its_answer():
    """Else a model that repeats the question would know everything."""
    for row in ROWS:
        told = [wording for wording in row["answers"] if holds(bare(row["question"]), bare(wording))]
        assert not told, row


def value(node: ast.expr) -> float:
    if isinstance(node, ast.BinOp):
        return SUMS[type(node.op)](value(node.left), value(node.right))
    assert isinstance(node, ast.Constant)
    return node.value


def test_the_sums_are_right():
    """Those written as sums are worked out here; the others by hand in the lists."""
    found = 0
    for row in ROWS:
        written = re.fullmatch(r"(?:What is )?([\d+\-*/() ]+?)(?:\?| 等于几？)", row["question"])
        if written:
            found += 1
            assert float(row["answers"][0]) == value(ast.parse(written[1].strip(), mode="eval").body), row
    assert found == 46


def test_every_wording_scores_and_a_longer_number_does_not():
    metric = Metric(name="contains")
    for row in ROWS:
        for wording in row["answers"]:
            assert contains(f"It is {wording}.", "\n".join(row["answers"]), metric) == {"contained": 1}, row
        if row["answers"][0].isdecimal():
            assert contains(f"7{row['answers'][0]}9", "\n".join(row["answers"]), metric) == {"contained": 0}


def test_the_template_asks_them():
    template = load_template(ROOT / "data_templates/general/questions.yaml")
    samples = template.render_all(read_source(SourceSection(path=str(FILE))))
    assert [sample.messages[0]["content"] for sample in samples] == [row["question"] for row in ROWS]
    assert [sample.answer for sample in samples] == ["\n".join(row["answers"]) for row in ROWS]


def test_an_id_stays_with_its_question():
    by_id = {row["id"]: row for row in ROWS}
    assert by_id["en-arithmetic-01"]["question"] == "What is 7 + 5?" and by_id["zh-language-06"]["answers"][0] == "足"
    assert all(by_id[row["id"]] == row for row in questions.make(50, 3))
    with pytest.raises(SystemExit, match="there are 240 questions"):
        questions.make(241, 0)
