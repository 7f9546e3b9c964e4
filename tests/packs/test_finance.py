"""The finance pack: answers of every sample row against libraries or a second way of working them out, and the real data."""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
from fractions import Fraction

import numpy_financial
import pytest
import pyxirr
from stdnum import isin
from stdnum.cn import uscc
from stdnum.exceptions import InvalidChecksum, InvalidComponent, InvalidFormat, InvalidLength, ValidationError

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.evaluate.metrics import METRICS, reference_of
from finetune.recipe_data import SourceSection
from scripts.make.finance import identifiers
from tests.conftest import ROOT

FOLDER = ROOT / "data_templates/finance"
REAL = next(
    (place for parent in (ROOT.parent, ROOT.parents[1]) if (place := parent / "shared/data/finance").is_dir()), None
)
NUMBER = r"-?[\d,]+(?:\.\d+)?"


@functools.cache
def rows(task: str) -> tuple[dict, ...]:
    return tuple(
        json.loads(line) for line in (FOLDER / f"{task}.sample.jsonl").read_text(encoding="utf-8").splitlines()
    )


def number(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace("$", "").strip())


def same(said: str | float, value: Fraction | float, decimals: int = 2) -> bool:
    """Equal but for the rounding of the last decimal shown."""
    return abs(float(Fraction(str(said))) - float(value)) <= 0.5000001 / 10**decimals


def worked_out(expression: str) -> Fraction:
    """A sum of plain numbers and percentages, exactly."""
    assert re.fullmatch(r"[\d.%+\-*/() ]+", expression), expression
    plain = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", expression)
    return eval(re.sub(r"\d+(?:\.\d+)?", r"F('\g<0>')", plain), {"F": Fraction, "__builtins__": {}})


def perfect_scores(task: str, source: dict) -> tuple[int, set[tuple[float, ...]]]:
    """How many rows of a source render, and which scores their own answers get."""
    template = load_template(FOLDER / f"{task}.yaml")
    samples = template.render_all(read_source(SourceSection(**source)))
    metric = template.metric
    score = METRICS[metric.name]
    return len(samples), {tuple(score(s.answer, reference_of(s, metric), metric).values()) for s in samples}


def real(name: str) -> str:
    if REAL is None or not (REAL / name).exists():
        pytest.skip(f"{name} lies outside the project and is not here")
    return str(REAL / name)


def finqa_value(program: str, table: list[list[str]]) -> Fraction | str:
    """FinQA's language once more, in fractions."""
    steps: list = []
    for name, inside in re.findall(r"(\w+)\(([^()]*)\)", program):
        left, _, right = inside.rpartition(", ")
        if name.startswith("table_"):
            values = [number(cell) for row in table if row[0] == left for cell in row[1:]]
            whole = {"max": max, "min": min, "sum": sum, "average": lambda v: sum(v) / len(v)}[name[6:]]
            steps.append(whole(values))
            continue
        a, b = (steps[int(x[1:])] if x[0] == "#" else number(x.removeprefix("const_")) for x in (left, right))
        if name == "greater":
            steps.append("yes" if a > b else "no")
        else:
            steps.append({"add": a + b, "subtract": a - b, "multiply": a * b, "divide": a / b if b else None}[name])
    return steps[-1]


@pytest.mark.parametrize(("task", "wanted"), [("finqa_facts", 1000), ("finqa", 520)])
def test_finqa_rows_come_to_their_value_and_take_their_figures_from_the_evidence(task, wanted):
    """By hand: subtract(150, 120), divide(#0, 120) = 30/120 = 0.25."""
    assert finqa_value("subtract(150, 120), divide(#0, 120)", []) == Fraction(1, 4)
    for row in rows(task):
        qa, value = row["qa"], finqa_value(row["qa"]["program"], row["table"])
        assert value == qa["exe_ans"] if isinstance(value, str) else same(qa["exe_ans"], value, 5), row
        shown = " ".join(qa["gold_inds"].values())
        page = row["pre_text"] + row["post_text"]
        for place, text in qa["gold_inds"].items():
            kind, at = place.split("_")
            assert text == page[int(at)] if kind == "text" else all(cell in text for cell in row["table"][int(at)])
        used = re.findall(r"(?<![#_\d.])\d+(?:\.\d+)?", qa["program"].replace("none", ""))
        assert all(re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", shown) for figure in used), row
    assert len(rows(task)) == wanted


def tatqa_answer(question: str, table: list[list[str]]) -> object:
    """A question on the table answered from its words; None for one on the text."""
    years, lines = table[0][1:], {row[0]: row[1:] for row in table[1:]}

    def at(name: str, year: str) -> str:
        return lines[name][years.index(year)]

    if found := re.fullmatch(r"What was the amount of (.+) in (\d{4})\?", question):
        return [at(*found.groups())]
    if found := re.fullmatch(r"What was the amount of (.+) in (\d{4}) and (\d{4}), respectively\?", question):
        return [at(found[1], found[2]), at(found[1], found[3])]
    if question == "Which items does the table list?":
        return list(lines)
    if question == "How many items does the table list?":
        return str(len(lines))
    if found := re.fullmatch(rf"How many years did (.+) exceed ({NUMBER}) (?:thousand|million)\?", question):
        return str(sum(number(cell) > number(found[2]) for cell in lines[found[1]]))
    if found := re.fullmatch(r"In which year was (.+) the largest\?", question):
        return [max(years, key=lambda year: number(at(found[1], year)))]
    if found := re.fullmatch(r"What is the (percentage change|change) in (.+) from (\d{4}) to (\d{4})\?", question):
        old, new = number(at(found[2], found[3])), number(at(found[2], found[4]))
        return new - old if found[1] == "change" else (new / old - 1) * 100
    if found := re.fullmatch(r"What is the average of (.+) for (\d{4}) and (\d{4})\?", question):
        return (number(at(found[1], found[2])) + number(at(found[1], found[3]))) / 2
    if found := re.fullmatch(r"What is the (ratio|sum) of (.+) (?:to|and) (.+) in (\d{4})\?", question):
        a, b = number(at(found[2], found[4])), number(at(found[3], found[4]))
        return a / b if found[1] == "ratio" else a + b
    return None


def test_tatqa_rows_follow_from_their_tables_and_paragraphs():
    """By hand: 30.0 and 24.0 million change by 6, or (30 / 24 - 1) x 100 = 25 %."""
    table = [["", "2019", "2018"], ["Fees", "30.0", "24.0"]]
    assert tatqa_answer("What is the percentage change in Fees from 2018 to 2019?", table) == 25
    on_text = 0
    for row in rows("tatqa"):
        one, table = row["questions"], row["table"]["table"]
        answer = tatqa_answer(one["question"], table)
        text = " ".join(paragraph["text"] for paragraph in row["paragraphs"])
        if answer is None:
            on_text += 1
            assert one["answer"][0] in text and one["scale"] == "", row
        elif isinstance(answer, Fraction):
            assert same(one["answer"], answer) and one["answer_type"] == "arithmetic", row
        else:
            assert one["answer"] == answer, row
        assert one["scale"] in ("", "percent") or f"in {one['scale']}s" in text
    assert len(rows("tatqa")) == 1000 and 100 < on_text < 200


def test_fund_sums_come_to_their_result_and_take_their_figures_from_the_prompt():
    """By hand: 360/40000/90*365 = 0.0365, so 3.65%; 5300*0.7992*(1-0.5%) = 4214.5812."""
    assert worked_out("5300*0.7992*(1-0.5%)") == Fraction("4214.5812")
    for row in rows("fund_sums"):
        working, result = row["题目答案计算逻辑"], row["标准答案"]
        value = worked_out(working)
        assert same(re.match(NUMBER, result)[0], value * 100 if result.endswith("%") else value), row
        figures = [part for part in re.findall(r"\d+(?:\.\d+)?%?", working) if part != "1"]
        assert all(part in row["基座query"] for part in figures), row


def loan_result(kind: str, f: dict) -> float:
    """By numpy-financial, pyxirr, its day counts, or year by year."""
    if kind == "level_payment":
        return -numpy_financial.pmt(f["rate"], f["months"], f["amount"])
    if kind == "two_dates":
        days = [dt.date.fromisoformat(f[name]) for name in ("start", "end")]
        return 100 * pyxirr.xirr(days, [-f["paid"], f["back"]])
    if kind == "day_interest":
        start, end = (dt.date.fromisoformat(f[name]) for name in ("start", "end"))
        basis = {"act/365": "act/365f"}.get(f["basis"], f["basis"])
        return f["amount"] * f["rate"] * pyxirr.year_fraction(start, end, basis)
    left, part = f.get("amount", f.get("cost")), 0.0
    if kind == "equal_principal":
        for _ in range(f["month"]):
            part, left = f["amount"] / f["months"] + left * f["rate"], left - f["amount"] / f["months"]
        return part
    for _ in range(f["year"]):
        part = left * 2 / f["life"] if kind == "declining" else (f["cost"] - f["residual"]) / f["life"]
        left -= part
    return part if kind == "declining" else left


def test_loan_sums_agree_with_the_libraries():
    """By hand: 1.21^(365/730) - 1 = 10 %; 12000/12 + (12000 - 4 x 1000) x 0.5 % = 1040."""
    figures = {"amount": 12000, "rate": 0.005, "months": 12, "month": 5}
    assert loan_result("equal_principal", figures) == pytest.approx(1040)
    for row in rows("loan_sums"):
        assert same(row["result"].rstrip("%"), loan_result(row["kind"], row["figures"])), row


def test_identifiers_agree_with_stdnum():
    """By hand: US037833100 is 30 28 0 3 7 8 3 3 1 0 0; doubled from the right at every other digit it sums to 45, so 5."""
    assert identifiers.isin_check("US037833100") == "5"
    named = {InvalidLength: "wrong_length", InvalidFormat: "bad_character", InvalidComponent: "bad_prefix",
             InvalidChecksum: "wrong_check"}  # fmt: skip
    for row in rows("identifiers"):
        judge = isin if row["kind"] == "isin" else uscc
        if row["asked"] == "check":
            assert judge.calc_check_digit(row["code"]) == row["answer"], row
            continue
        try:
            judge.validate(row["code"])
            found = "valid"
        except ValidationError as problem:
            found = named[type(problem)]
        assert found == row["answer"], row


def test_finqa_itself_renders_and_its_programs_are_right():
    folder = real("finqa_dev200_train100")
    for task in ("finqa_facts", "finqa"):
        for name, wanted in (("dev_200", 200), ("train_100", 100)):
            assert perfect_scores(task, {"path": f"{folder}/{name}.json"}) == (wanted, {(1.0, 1.0, 1.0)})


def test_tatqa_itself_renders_one_question_a_row_and_its_answers_are_right():
    file = real("tatqa/tatqa_dataset_dev.json")
    assert perfect_scores("tatqa", {"path": file, "explode": "questions"}) == (1668, {(1.0, 1.0, 1.0)})


@pytest.mark.parametrize(
    ("task", "name", "wanted"),
    [("fund_sums", "numerical_calculation", 42), ("index_extraction", "index_extraction", 340)],
)
def test_finevals_questions_render_and_their_answers_are_right(task, name, wanted):
    count, scores = perfect_scores(task, {"path": real(f"fineval_rigor/{name}.csv")})
    assert count == wanted and {value for one in scores for value in one} == {1.0}
