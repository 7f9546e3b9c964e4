"""Programs in FinQA's language: by hand, what is refused, and its gold programs where the data is present."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml

from finetune.data.template import Metric, load_template
from finetune.errors import DataError, RecipeError
from finetune.evaluate.metrics import reference_of, score, with_record
from finetune.evaluate.program import ProgramError, as_value, program, run_program, same_value
from finetune.inputs import known_scores, load_data
from tests.conftest import ROOT

TABLE = [["", "2009", "2008"], ["net sales", "$ 1,200 ( 3 )", "1000"], ["margin", "5.5%", "4.5 %"], ["note", "a", "b"]]
# Beside the project, or beside the folder that holds a checkout of it.
FINQA = next(
    (place for parent in (ROOT.parent, ROOT.parents[1])
     if (place := parent / "shared/data/finance/finqa_dev200_train100").is_dir()), None,
)  # fmt: skip
PROGRAM = Metric(name="program")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("subtract(5829, 5735)", 94.0),
        ("subtract(5829, 5735), divide(#0, 5735)", 0.01639),
        ("add(1,200, 34)", 1234.0),
        ("add(1,2)", 3.0),
        ("multiply(5%, const_100), add(#0, const_m1)", 4.0),
        ("exp(2, 10)", 1024.0),
        ("greater(3, 2)", "yes"),
        ("greater(2, 2)", "no"),
        ("table_sum(net sales, none)", 2200.0),
        ("table_average(net sales, none), table_max(net sales, none), subtract(#1, #0)", 100.0),
        ("table_min(margin, none)", 0.045),
        ("divide(-.5, 1e1)", -0.05),
    ],
)
def test_programs_by_hand(text, value):
    assert run_program(text, TABLE) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "5", "divide(1, 0)", "add(1, 2", "add(1)", "add(1, )", "add(#0, 1)", "add(1, 2), add(#1, 1)", "add(nan, 1)",
        "add(inf, 1)", "add(1_0, 1)", "exp(10, 10000)", "exp(-8, 0.5)", "exp(0, -1)", "multiply(1e300, 1e300)",
        "table_sum(note, none)", "table_sum(profit, none)", "greater(1, 2), add(#0, 1)", "add(add(1, 2), 3)",
        "__import__(os, none)", "add(#-1, 1)", "add(const_, 1)", ", ".join(["add(1, 2)"] * 101),
    ],
)  # fmt: skip
def test_what_can_not_run_is_an_error_and_nothing_else(text):
    with pytest.raises(ProgramError):
        run_program(text, TABLE)
    assert program(text, "3", PROGRAM)["execution_accuracy"] == 0.0


def test_values_are_equal_to_five_decimals_as_in_the_data_sets_own_evaluation():
    assert same_value(0.016390, 0.01639) and not same_value(0.01639, 0.01640)
    assert same_value("yes", "yes") and not same_value("yes", 1.0)
    assert [as_value(said) for said in ("94.0", 94, "Yes", "5%", "ninety", None, True, float("nan"))] == [
        94.0, 94.0, "yes", 0.05, None, None, None, None,
    ]  # fmt: skip


def test_an_answer_is_right_by_what_it_comes_to():
    """Another way to the same value is right, without being the same program; the last line with a step counts."""
    wanted = "subtract(5829, 5735), divide(#0, 5735)"
    assert score([wanted], [wanted], PROGRAM) == {"execution_accuracy": 1.0, "program_runs": 1.0, "program_exact": 1.0}
    other = "The change:\nprogram: divide(5829, 5735), subtract(#0, const_1)."
    assert score([other], [wanted], PROGRAM) == {"execution_accuracy": 1.0, "program_runs": 1.0, "program_exact": 0.0}
    assert score(["add(1, 1)"], [wanted], PROGRAM)["execution_accuracy"] == 0.0
    assert score(["0.01639"], [wanted], PROGRAM)["program_runs"] == 0.0  # a number is no program
    assert score(["greater(2, 1)"], ["yes"], PROGRAM) == {"execution_accuracy": 1.0, "program_runs": 1.0}


TEMPLATE = {
    "name": "numbers", "description": "A question over a table, answered by a program.",
    "columns": {
        "question": {"type": "str"}, "table": {"type": "list", "items": "list"},
        "qa": {"type": "object", "columns": {"program": {"type": "str"}, "exe_ans": {"type": "float"}}},
    },
    "messages": [{"role": "user", "content": "{{ question }}"}, {"role": "assistant", "content": "{{ qa.program }}"}],
    "metric": {"name": "program", "value": "qa.exe_ans", "table": "table"},
    "examples": [{
        "row": {"question": "q", "table": TABLE, "qa": {"program": "table_sum(net sales, none)", "exe_ans": 2200.0}},
        "answer": "table_sum(net sales, none)",
    }],
}  # fmt: skip


def test_value_and_table_come_from_the_record(tmp_path):
    """The record's value counts, whatever the gold program comes to; programs look into the record's table."""
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(TEMPLATE))
    template = load_template(file)
    rows = [SimpleNamespace(values=TEMPLATE["examples"][0]["row"], file="a", line=1, where="a:1")]
    sample = template.render_rows(rows).samples[0]
    reference = reference_of(sample, template.metric)
    assert json.loads(reference) == {"answer": sample.answer, "value": 2200.0, "table": TABLE}
    right, wrong = "add(1200, 1000)", "table_max(net sales, none)"
    assert [program(text, reference, template.metric)["execution_accuracy"] for text in (right, wrong)] == [1.0, 0.0]
    assert program(wrong, reference, template.metric)["program_runs"] == 1.0
    other = with_record(sample.answer, sample.record | {"qa": {"exe_ans": 1200.0}}, template.metric)
    assert program(wrong, other, template.metric)["execution_accuracy"] == 1.0
    assert with_record("add(1, 2)", {}, PROGRAM) == "add(1, 2)"


def test_a_column_that_is_not_there_is_refused(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(TEMPLATE | {"metric": {"name": "program", "value": "qb.exe_ans"}}))
    with pytest.raises(DataError, match=r"metric.value: 'qb' is not a column; allowed: qa, question, table"):
        load_template(file)


def test_grpo_has_no_record_at_hand(tmp_path, tiny_recipe):
    row = TEMPLATE["examples"][0]["row"]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(TEMPLATE))
    lines = [json.dumps(row | {"question": f"q{n}"}) + "\n" for n in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    data = [f"data.template={tmp_path}/t.yaml", f"data.train={tmp_path}/a.jsonl", "data.split={eval_rows: 4}"]
    assert known_scores(load_data(tiny_recipe(*data))) == ["execution_accuracy", "program_runs", "program_exact"]
    grpo = ("stage=grpo", "train.global_batch_size=8", "grpo.num_generations=4")
    recipe = tiny_recipe(*data, *grpo, "grpo.rewards={execution_accuracy: 1.0}")
    with pytest.raises(
        RecipeError, match="metric program: `value` looks into the record, which stage grpo does not have"
    ):
        load_data(recipe)


@pytest.mark.parametrize(("name", "count"), [("dev_200", 200), ("train_100", 100)])
def test_the_gold_programs_come_to_the_recorded_values(name, count):
    """Every one, tables and yes or no included: no exception."""
    if FINQA is None:
        pytest.skip("FinQA's rows lie outside the project and are not here")
    rows = json.loads((FINQA / f"{name}.json").read_text(encoding="utf-8"))
    metric = Metric(name="program", value="qa.exe_ans", table="table")
    references = [with_record(row["qa"]["program"], row, metric) for row in rows]
    got = [program(row["qa"]["program"], told, metric) for row, told in zip(rows, references, strict=True)]
    assert len(rows) == count
    assert [row["id"] for row, one in zip(rows, got, strict=True) if one["execution_accuracy"] != 1.0] == []
