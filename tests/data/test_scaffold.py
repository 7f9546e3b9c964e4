"""`finetune new template`: types guessed, text written, and the template runs on all of its rows."""

from __future__ import annotations

import json

import pytest

from finetune.data.answering import schema_of
from finetune.data.guess import guess
from finetune.data.rows import Row
from finetune.data.scaffold import scaffold, scaffold_rows, write_template
from finetune.data.template import load_template
from finetune.errors import DataError
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("values", "column"),
    [
        (["1", "-2", None], {"type": "int", "nullable": True}),
        (["007", "123"], {"type": "str"}),
        ([1, 2.5], {"type": "float"}),
        (["1e-5", ".5", "-3"], {"type": "float"}),
        (["", "1"], {"type": "str"}),
        (["-", "1"], {"type": "str"}),
        (["nan", "1"], {"type": "str"}),
        ([True, False], {"type": "bool"}),
        (["true", "False"], {"type": "bool"}),
        ([True, 1], None),
        ([1, "x"], None),
        (["2022-10-31", "2022-02-28"], {"type": "date"}),
        (["2022-02-30"], {"type": "str"}),
        (["2022-10-31T09:30:00Z"], {"type": "datetime"}),
        (["a", "b"] * 4, {"type": "str", "choices": ["a", "b"]}),
        (["a", "b", "c", "d"] * 2, {"type": "str"}),
        ([None, None], {"type": "str", "nullable": True}),
        ([[1, 2], []], {"type": "list", "items": "int"}),
        ([[1, "x"]], {"type": "list"}),
        ([[{"a": 1}, {"a": None}]], {"type": "table"}),
        ([[["", "2019"], ["x", 1.5]]], {"type": "table"}),
        ([[[1, 2], [3, 4]]], {"type": "list"}),
        ([[["a", "b"], ["c"]]], {"type": "list"}),
        ([[{"a": [1]}]], {"type": "list"}),
        ([{"k": 1}, {"k": 2, "m": "x"}],
         {"type": "object", "columns": {"k": {"type": "int"}, "m": {"type": "str", "nullable": True}}}),
        ([{"k": 1}, {"k": "x"}], {"type": "object"}),
    ],
)  # fmt: skip
def test_types_are_guessed(values, column):
    assert guess(values) == column


ROWS = [
    {"mine": "北坑", "ch4 (%)": 0.4, "class": "a", "when": "2022-10-31", "gas": [{"t": 1, "ch4": 0.5}], "mixed": 1,
     "sure": None, "grade": "normal"},
    {"mine": "南坑", "ch4 (%)": 1e-7, "class": "b\nc", "when": "2022-11-01", "gas": None, "mixed": "x",
     "sure": True, "grade": None},
    {"mine": "no", "ch4 (%)": 3, "class": "{{ a }}", "when": "2022-11-02", "gas": [], "mixed": 2,
     "sure": False, "grade": "1e5"},
]  # fmt: skip

TEXT = """# Guessed from rows.jsonl: check types, add units and ranges, and say in the prompt what is wanted.
name: "gas"
description: "grade from the other columns"
columns:
  mine: {type: str}
  "ch4 (%)": {type: float}
  class: {type: str}
  when: {type: date}
  gas: {type: table, nullable: true}
  sure: {type: bool, nullable: true}
  grade: {type: str, null: drop}
  # left out, no one type fits its values: mixed
messages:
  - role: user
    content: |
      mine: {{ mine }}
      ch4 (%): {{ record["ch4 (%)"] | number }}
      class: {{ class }}
      when: {{ when }}
      gas:
      {{ gas | table }}
      sure: {{ sure | or_null }}
      Give grade.
  - role: assistant
    content: |
      grade: {{ grade }}
metric: {name: fields, separator: ": "}
examples:
  - row:
      mine: "北坑"
      "ch4 (%)": 0.4
      class: "a"
      when: "2022-10-31"
      gas: [{"t": 1, "ch4": 0.5}]
      sure: null
      grade: "normal"
    answer: "grade: normal"
"""


def test_the_whole_text_and_what_it_renders(tmp_path):
    sample = tmp_path / "rows.jsonl"
    sample.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    assert scaffold(sample, "gas") == TEXT
    write_template(sample, None, tmp_path / "new/gas.yaml")
    assert (tmp_path / "new/gas.yaml").read_text(encoding="utf-8") == TEXT
    result = load_template(tmp_path / "new/gas.yaml").render_rows([Row(r, "f", n) for n, r in enumerate(ROWS, 1)])
    assert result.dropped == ["f:2: grade: is null"]
    assert result.samples[1].messages == (
        {
            "role": "user",
            "content": "mine: no\nch4 (%): 3\nclass: {{ a }}\nwhen: 2022-11-02\ngas:\nnone\nsure: False\nGive grade.",
        },
        {"role": "assistant", "content": "grade: 1e5"},
    )
    with pytest.raises(DataError) as caught:
        write_template(sample, None, tmp_path / "new/gas.yaml")
    assert caught.value.problems == [f"{tmp_path}/new/gas.yaml: is there already"]


def test_the_answer_column_and_a_chinese_question():
    rows = [Row({"结论": "合格", "描述": "样品一切正常", "数值": n}, "f", n) for n in range(3)]
    text = scaffold_rows(rows, "t", "数值")
    assert "      描述: {{ 描述 }}\n      请给出数值。\n" in text
    assert "metric: {name: number" in text
    for answer, problem in (
        ("结果", "f: 结果: can't be the answer column; allowed: 描述, 数值, 结论"),
        ("m", "f: m: can't be the answer column; its values are not all of one type"),
    ):
        with pytest.raises(DataError) as caught:
            scaffold_rows([*rows, Row({"m": 1}, "f", 4), Row({"m": "x"}, "f", 5)], "t", answer)
        assert caught.value.problems == [problem]


STOPS = [{"port": "A", "h": 1}, {"port": "B", "h": None}]


@pytest.mark.parametrize(
    ("values", "reply", "metric"),
    [
        (["late", "early"], "{{ a }}", 'label, labels: ["early", "late"]'),
        (["A+", "A-", "a+"], "a: {{ a }}", 'fields, separator: ": "'),  # two classes that are one but for case
        (["+", "-"], "a: {{ a }}", 'fields, separator: ": "'),  # classes without a word
        ([True, False], "{{ 'yes' if a else 'no' }}", 'label, labels: ["yes", "no"]'),
        ([1, 2.5], "a: {{ a | number }}", 'number, separator: ": "'),
        ([10**20, 1], "a: {{ a }}", 'fields, separator: ": "'),  # number reads 18 digits at most
        (["2024-03-05", "2024-03-06"], "a: {{ a }}", 'date, separator: ": "'),
        ([f"{n}.5 t" for n in range(16)], "a: {{ a }}", 'quantity, separator: ": "'),
        ([f"1,{n:03d} 小时" for n in range(16)], "a: {{ a }}", 'quantity, separator: ": "'),
        ([f"{n} March 2024" for n in range(16)], "a: {{ a }}", 'fields, separator: ": "'),
        ([f"x{n}" for n in range(16)], "a: {{ a }}", 'fields, separator: ": "'),
        ([f"x{n}\na: y\na: z" for n in range(16)], "{{ a }}", "exact_match"),  # a field given twice
        (STOPS, "{{ a | tojson }}",
         'json, schema: {"type": "object", "properties": {"port": {"type": "string"}, "h": {"type": ["integer", "null"]}}, '
         '"required": ["port", "h"]}'),
        ([json.dumps({"n": n}) for n in range(16)], "{{ a }}",
         'json, schema: {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'),
        ([[{"p": 1, "q": "z"}], [{"p": 2, "q": "y"}]], "{{ a | table }}", "table"),
        ([[1, 2], [3]], "a: {{ a | or_null }}", 'fields, separator: ": "'),
    ],
)  # fmt: skip
def test_the_answer_decides_how_it_is_scored(values, reply, metric):
    rows = [Row({"q": f"x{n}", "a": values[n % len(values)]}, "f", n) for n in range(16)]
    lines = scaffold_rows(rows, "t").splitlines()
    assert f"      {reply}" in lines and f"metric: {{name: {metric}}}" in lines


def test_the_question_lists_few_classes():
    rows = [Row({"q": f"x{n}", "a": ["a b", "c", "d"][n % 3]}, "f", n) for n in range(12)]
    assert "      Give a: a b, c or d." in scaffold_rows(rows, "t").splitlines()
    chinese = [Row({"描述": "样品一切正常", "合格": n % 2 == 0}, "f", n) for n in range(12)]
    assert "      请给出合格：是或否。" in scaffold_rows(chinese, "t").splitlines()
    braces = [Row({"q": f"x{n}", "a": ["{{ q }}", "{% if %}"][n % 2]}, "f", n) for n in range(12)]
    assert "      Give a." in scaffold_rows(braces, "t").splitlines()


def test_a_schema_that_all_values_keep():
    """Numbers of both kinds are numbers; keys that one object lacks are not required; items of all lists together."""
    assert schema_of([{"n": 1, "l": [1, "x"]}, {"n": 2.5, "l": []}, {"n": 3, "l": [], "k": {"z": True}}]) == {
        "type": "object",
        "properties": {
            "n": {"type": "number"},
            "l": {"type": "array", "items": {"type": ["integer", "string"]}},
            "k": {"type": "object", "properties": {"z": {"type": "boolean"}}, "required": ["z"]},
        },
        "required": ["n", "l"],
    }
    assert schema_of([{f"k{n}": 1 for n in range(51)}]) == {"type": "object"}


def test_rows_that_give_no_template():
    for rows, problem in (
        ([], "there are no rows to guess a template from"),
        ([Row({"a": 1}, "f", 1)], "f: a question and an answer need two columns whose values are of one type each"),
        ([Row({"a": 1, "b": None}, "f", 1)], "f: b: no row has a value"),
        (
            [Row({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "f", 1)],
            "f: holds ready conversations; `data.format: messages` (or `auto`) needs no template",
        ),
        (
            [Row({"a": 1, "b": " "}, "f", 1), Row({"a": 1, "b": "x"}, "f", 2), Row({"a": 1, "b": ""}, "f", 3)],
            "f:1: b: the answer is empty (2 rows: 1, 3); write one, or null, or leave the row out",
        ),
        (
            [Row({"record": 1, "a b": 2}, "f", 1)],
            "f: record: a column of this name hides the whole record; call it something else",
        ),
        (
            [Row({"a": "x" * 50_001, "b": 1}, "f", 1)],
            "f: every row is longer than 50,000 characters; a worked example can't be",
        ),
        (
            [Row({"a": "x", "b": 1}, "f", 1), Row({"a": "x" * 1_000_001, "b": 1}, "f", 2)],
            "f:2: the user message of the template guessed from it can't be rendered: "
            "makes a value of more than 1,000,000 characters or items",
        ),
    ):
        with pytest.raises(DataError) as caught:
            scaffold_rows(rows, "t")
        assert caught.value.problems == [problem]


def test_odd_columns_and_a_long_first_row(tmp_path):
    """A column called `record` alone, emoji, braces; the worked example is a row that a template file can hold."""
    rows = [Row({"record": "x" * 60_000, "b": 1}, "f", 1), Row({"record": "y", "b": 2}, "f", 2)]
    file = tmp_path / "t.yaml"
    file.write_text(scaffold_rows(rows, "t"), encoding="utf-8")
    template = load_template(file)
    assert template.examples[0].row == {"record": "y", "b": 2}
    assert template.render(rows[1]).prompt[0]["content"] == "record: y\nGive b."
    odd = [Row({"😀": "1", "{{ a }}": "2", "a\nb": "3"}, "f", 1)]
    file.write_text(scaffold_rows(odd, "t"), encoding="utf-8")
    assert load_template(file).render(odd[0]).prompt[0]["content"] == "😀: 1\na: 2\nGive a b."


@pytest.mark.parametrize("name", ["meteorology/metar_decode", "finance/cashflow"])
def test_shipped_samples_scaffold(name, tmp_path):
    """Every row with an answer renders, in a template that nobody has touched."""
    sample = ROOT / f"data_templates/{name}.sample.jsonl"
    file = tmp_path / "t.yaml"
    write_template(sample, "flight_category" if "metar" in name else None, file)
    lines = sample.read_text(encoding="utf-8").splitlines()
    rows = [Row(json.loads(line), "f", n) for n, line in enumerate(lines, 1)]
    result = load_template(file).render_rows(rows)
    assert len(result.samples) + len(result.dropped) == len(rows)
    assert len(result.dropped) == sum(row.values.get("flight_category", "") is None for row in rows)
