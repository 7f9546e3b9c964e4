"""Data templates: cells against their columns, Jinja against the columns, worked examples."""

from __future__ import annotations

import datetime as dt
import random
import re
import time
from pathlib import Path

import jinja2
import pytest
import yaml

from finetune.data.columns import Column, DropRowError, check_cell
from finetune.data.jinja import ENVIRONMENT, parse, render
from finetune.data.limits import LimitError, Limits
from finetune.data.rows import Row
from finetune.data.template import load_template
from finetune.errors import DataError, RecipeError
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("column", "value", "typed"),
    [
        ({"type": "int"}, "12", 12),
        ({"type": "int"}, 12, 12),
        ({"type": "float"}, "-3.5", -3.5),
        ({"type": "float"}, 3, 3.0),
        ({"type": "bool"}, "True", True),
        ({"type": "str"}, "x", "x"),
        ({"type": "list", "items": "int"}, [1, "2"], [1, 2]),
        ({"type": "str", "nullable": True}, None, None),
        ({"type": "float", "minimum": 0, "maximum": 1}, 1.0, 1.0),
        ({"type": "list", "items": {"type": "list", "items": "float"}}, [[1], ["2.5"]], [[1.0], [2.5]]),
        ({"type": "list", "items": {"type": "int", "null": "drop"}}, [1, None, 2], [1, 2]),
        ({"type": "object", "columns": {"k": {"type": "int"}}}, {"k": "7", "other": 1}, {"k": 7}),
        ({"type": "object"}, {"any": [1]}, {"any": [1]}),
        ({"type": "table"}, [["", "2019"], ["Other", "44.1"]], [["", "2019"], ["Other", "44.1"]]),
        ({"type": "table"}, [], []),
        (
            {"type": "table", "columns": {"y": {"type": "int"}, "v": {"type": "float", "nullable": True}}},
            [["2019", "1.5"], [2020, None]],
            [{"y": 2019, "v": 1.5}, {"y": 2020, "v": None}],
        ),
        ({"type": "date"}, "2022-10-31T00:00:00", dt.date(2022, 10, 31)),
        ({"type": "str", "null": "keep"}, None, None),
    ],
)
def test_good_cells(column, value, typed):
    assert check_cell(value, Column(**column)) == typed


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ({"type": "int"}, "1.5", "a whole number is needed, got '1.5'"),
        ({"type": "int"}, True, "a whole number is needed, got True"),
        ({"type": "float"}, "nan", "a number is needed, got 'nan'"),
        ({"type": "float"}, "12 kt", "a number is needed, got '12 kt'"),
        ({"type": "str"}, 5, "text is needed, got 5"),
        ({"type": "str"}, None, "is null; a value is needed"),
        ({"type": "date"}, "31.10.2022", "a date as 2022-10-31 is needed, got '31.10.2022'"),
        ({"type": "float", "minimum": -90, "unit": "°C"}, -120, "-120 is below the minimum of -90 °C"),
        ({"type": "str", "choices": ["VFR", "IFR"]}, "VFRR", "'VFRR' is not one of the choices; did you mean 'VFR'?"),
        ({"type": "str", "pattern": "[A-Z]{4}"}, "abc", "'abc' does not match '[A-Z]{4}'"),
        ({"type": "list", "items": "int"}, [1, "x"], "[1]: a whole number is needed, got 'x'"),
        (
            {"type": "list", "items": {"type": "list", "items": "int"}},
            [[1], [2, "x"]],
            "[1][1]: a whole number is needed, got 'x'",
        ),
        ({"type": "list", "items": {"type": "float", "minimum": 0}}, [1, -1], "[1]: -1 is below the minimum of 0"),
        ({"type": "object"}, [1], "an object is needed, got [1]"),
        ({"type": "object", "columns": {"k": {"type": "int"}}}, {"kk": 1}, ".k: is missing; did you mean 'kk'?"),
        (
            {"type": "object", "columns": {"k": {"type": "object", "columns": {"m": {"type": "int"}}}}},
            {"k": {"m": "x"}},
            ".k.m: a whole number is needed, got 'x'",
        ),
        ({"type": "table"}, "x", "a table (a list of lists or of objects) is needed, got 'x'"),
        ({"type": "table"}, [["a", "b"], [1]], "[1]: 1 cells, the table has 2 columns"),
        ({"type": "table"}, [{"a": 1}, [1]], "[1]: an object is needed, got [1]"),
        ({"type": "table"}, [{"a": [1]}], "[0]: [1] is not one cell"),
        (
            {"type": "table", "columns": {"y": {"type": "int"}}},
            [{"y": 1}, {"y": None}],
            "[1].y: is null; a value is needed",
        ),
        ({"type": "date"}, "2022-10-31T09:00:00", "a date as 2022-10-31 is needed, got '2022-10-31T09:00:00'"),
    ],
)
def test_bad_cells(column, value, what):
    with pytest.raises(ValueError) as caught:
        check_cell(value, Column(**column))
    assert str(caught.value) == what


def test_bad_rows_are_all_named_by_file_line_and_column(tiny_data):
    template = load_template(tiny_data / "larger.yaml")
    rows = [
        Row({"a": 1, "b": 2, "group": "x"}, "f.jsonl", 1),
        Row({"a": 11, "b": None, "group": "x"}, "f.jsonl", 2),
        Row({"a": 1, "bb": 2, "group": "x"}, "f.jsonl", 4),
    ]
    with pytest.raises(DataError) as caught:
        template.render_all(rows)
    assert caught.value.problems == [
        "f.jsonl:2: a: 11 is above the maximum of 9",
        "f.jsonl:2: b: is null; a value is needed",
        "f.jsonl:4: b: is missing; did you mean 'bb'?",
    ]


def changed(tiny_data, tmp_path, change) -> list[str]:
    content = yaml.safe_load((tiny_data / "larger.yaml").read_text())
    change(content)
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(DataError) as caught:
        load_template(file)
    return [problem.removeprefix(str(tmp_path) + "/") for problem in caught.value.problems]


def test_wrong_templates(tiny_data, tmp_path):
    def message(text):
        return lambda content: content["messages"][1].update(content=text)

    assert changed(tiny_data, tmp_path, message("{{ aa }}")) == [
        "t.yaml:18: messages: aa: not a column; did you mean 'a'?"
    ]
    assert "messages: Jinja line 1: unexpected '}'" in changed(tiny_data, tmp_path, message("{{ a }"))[0]
    assert changed(tiny_data, tmp_path, lambda c: c["columns"]["a"].update(minimun=0))[0].endswith(
        "columns.a.minimun: unknown key; did you mean 'minimum'?"
    )
    assert (
        "the row renders to the answer 'larger 7"
        in changed(tiny_data, tmp_path, lambda c: c["examples"][0].update(answer="larger 8"))[0]
    )
    assert "the last message must be the assistant's" in changed(tiny_data, tmp_path, lambda c: c["messages"].pop())[0]


SSTI = [
    "{{ a.__class__.__mro__ }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ group.format.__globals__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(group) }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ self.__init__.__globals__.__builtins__ }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os }}",
    "{{ namespace.__init__.__globals__.sys.modules }}",
    "{{ range.__class__.__base__ }}",
    "{{ group | attr('__class__') | attr('__mro__') }}",
    "{{ [group] | map(attribute='__class__') | list }}",
    "{{ group['__class__']['__base__'] }}",
    "{{ (group ~ '%c%c' % (95, 95)).__len__.__self__ }}",
    "{% for x in [1] %}{{ loop._iterable.__class__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{{ a.to_bytes(1, 'big').decode.__self__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends '/etc/passwd' %}",
    "{% block b %}{{ self.b() }}{% endblock %}",
]


@pytest.mark.parametrize("payload", SSTI)
def test_templates_run_in_a_sandbox(tiny_data, tmp_path, payload):
    """T47: Jinja in a template reaches no Python internals and no file."""
    problem = changed(tiny_data, tmp_path, lambda c: c["messages"][1].update(content=payload))[0]
    assert re.search(
        "can't be rendered: .*(unsafe|undefined)|not a column|No filter named 'attr'|is not allowed", problem
    )
    assert "root:" not in problem and "module" not in problem


BOMBS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**(10**7) }}",
    "{{ ((10**999)**999)**999 }}",
    "{{ [[0] * 99999] * 99999 }}",
    "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60 + "{{ x }}",
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ 'a' | center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' | format(999999999, 1) }}",
    "{{ ('a' * 9999) | replace('', 'b' * 9999) }}",
    "{{ ('a' * 9999).replace('', 'b' * 9999) }}",
    "{{ (['a' * 9999] * 99) | join('b' * 99999) }}",
    "{{ ('\n' * 9999) | indent(9999) }}",
    "{{ range(9999) | map('center', 9999) | list | length }}",
    "{{ [1] | batch(10**9, 'x') | list }}",
    "{{ [1] | slice(10**9) | list }}",
    "{% set a = 'a' * 999999 %}{% for i in range(9999) %}{% for j in range(9999) if 'b' in a %}{% endfor %}{% endfor %}",
    "{% set x %}{% for i in range(9999) %}" + "x" * 9000 + "{% endfor %}{% endset %}",
    "{% set n = namespace() %}{% set n.x = [n] %}{{ n.x }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_not_end_is_stopped(bomb):
    """T47: loops, powers, repetition, widths and recursion stop at a limit of time or size, in little memory."""
    parse(bomb)  # compiling evaluates none of it
    template = ENVIRONMENT.from_string(bomb)
    before = time.thread_time()
    with pytest.raises((LimitError, RecursionError)):
        render(template, {}, Limits(seconds=0.2, characters=1_000_000))
    assert time.thread_time() - before < 2


def test_a_bomb_stops_loading_and_names_the_limit(tiny_data, tmp_path):
    """T47: worked examples run at load, so a template that never ends is found before any row."""
    problems = changed(
        tiny_data, tmp_path,
        lambda c: (c["messages"][1].update(content=BOMBS[1]), c.update(limits={"seconds": 0.2, "characters": 1000})),
    )  # fmt: skip
    assert len(problems) == 1
    assert problems[0].endswith("can't be rendered: makes more than 20,000 characters on the way")


def test_one_row_that_costs_too_much_stops_the_rows(tiny_data, tmp_path):
    """T47: the same would happen on every row, each for `limits.seconds`."""
    content = yaml.safe_load((tiny_data / "larger.yaml").read_text())
    content["messages"][0]["content"] = "{{ a }} {{ 'x' * (a * 400000) }}"
    content["examples"][0]["row"]["a"] = 0
    content["examples"][0]["answer"] = "larger 7\nsame no"
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    rows = [Row({"a": 9, "b": 2, "group": "x"}, "f.jsonl", line) for line in range(1, 4)]
    with pytest.raises(DataError) as caught:
        load_template(file).render_all(rows)
    assert caught.value.problems == [
        f"f.jsonl:1: the user message of {file} can't be rendered: makes a value of more than 1,000,000 characters or items"
    ]


def test_template_paths_and_files(tiny_data, tmp_path):
    """T47: anchors, Python tags and double keys are refused, and what is no template file is not read."""
    allowed = tmp_path
    for text, what in (
        ("a: &x [1]\nb: [*x, *x]\n", ":1: anchors and aliases (& and *) are not allowed"),
        ("name: !!python/object/apply:os.system [id]\n", ":1: "),
        ("name: a\nname: b\n", ":2: name: given twice"),
        ("x" * 1_000_001, ": is larger than 1,000,000 bytes; that is no template"),
    ):
        file = allowed / "bad.yaml"
        file.write_text(text)
        with pytest.raises(RecipeError) as refused:
            load_template(file)
        assert refused.value.problems[0].startswith(f"{file}{what}")
    with pytest.raises(DataError) as caught:
        load_template(Path("/dev/zero"))
    assert caught.value.problems == ["/dev/zero: is not a file"]


def test_a_nullable_column_that_no_row_has_is_a_typo(tiny_data, tmp_path):
    content = yaml.safe_load((tiny_data / "larger.yaml").read_text())
    content["columns"]["grup"] = {"type": "str", "nullable": True}
    content["examples"][0]["row"]["grup"] = None
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(DataError) as caught:
        load_template(file).render_all([Row({"a": 1, "b": 2, "group": "x"}, "f.jsonl", 1)])
    assert caught.value.problems == ["f.jsonl: grup: no row has this column; did you mean 'group'?"]


def shown(text: str, **values) -> str:
    return render(ENVIRONMENT.from_string(text), values, Limits())


def test_null_and_number_filters():
    text = "{{ x | number }} {{ y | number }} {{ z | decimals(2) }} {{ w | or_null }} {{ v | or_null('-') }} {{ u | number }}"
    assert shown(text, x=12.0, y=None, z=30.1, w=[], v=None, u=0) == "12 none 30.10 none - 0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-9, "0.000000001"),
        (6.21, "6.21"),
        (1e22, "1" + "0" * 22),
        (0.1234567, "0.1234567"),
        (-3.0, "-3"),
        (100.0, "100"),
    ],
)
def test_numbers_keep_every_digit(value, text):
    assert shown("{{ x | number }}", x=value) == text


TABLE = [["", "2019", "2018"], ["Fixed | price", 1452.4, None], ["Other\nsales", 44.0, 56.7]]


def test_tables_as_markdown_and_as_lines():
    assert shown("{{ t | table }}", t=TABLE) == (
        "|  | 2019 | 2018 |\n| --- | --- | --- |\n| Fixed \\| price | 1452.4 |  |\n| Other sales | 44 | 56.7 |"
    )
    objects = [{"year": 2019, "t": 1.5}, {"year": 2020, "depth": None}]
    assert shown("{{ t | table(null='-') }}", t=objects) == (
        "| year | t | depth |\n| --- | --- | --- |\n| 2019 | 1.5 | - |\n| 2020 | - | - |"
    )
    assert shown("{{ t | table('lines') }}", t=objects[:1]) == "year: 2019\nt: 1.5"
    assert shown("{{ t | table('lines', null='-') }}", t=objects) == (
        "year: 2019\nt: 1.5\ndepth: -\n\nyear: 2020\nt: -\ndepth: -"
    )
    assert shown("{{ t | table('lines') }}", t={"site": "A", "ph": 7.0}) == "site: A\nph: 7"
    assert shown("{{ t | table }}{{ u | table }}", t=None, u=[]) == "nonenone"
    with pytest.raises(ValueError, match="'line' is not a style; did you mean 'lines'"):
        shown("{{ t | table('line') }}", t=TABLE)


def test_json_keeps_letters_and_a_missing_key_is_an_error():
    assert (
        shown("{{ t | tojson }}", t={"温度": [1.5, None, dt.date(2022, 1, 2)]}) == '{"温度": [1.5, null, "2022-01-02"]}'
    )
    assert shown("{{ o.items }} {{ o.x }} {{ o['x'] }}", o={"items": 3, "x": "y"}) == "3 y y"
    for text in ("{{ o.z }}", "{{ [o] | map(attribute='z') | list }}", "{{ [o] | map(attribute='z') | join }}"):
        with pytest.raises(jinja2.UndefinedError, match="has no attribute 'z'"):
            shown(text, o={"x": "y"})
    with pytest.raises(LimitError, match="a generator is not text"):
        shown("{{ [1] | map('string') }}")


TASKS = """
name: drill_log
description: Questions about one record of a borehole.
columns:
  hole: {type: str}
  depth_m: {type: float, minimum: 0, null: keep}
  rock: {type: str, choices: [granite, schist]}
  grade: {type: float, null: drop}
tasks:
  - name: depth
    when: depth_m is not none
    variants:
      - name: plain
        messages:
          - {role: user, content: "How deep is {{ hole }}?"}
          - {role: assistant, content: "depth_m: {{ depth_m | number }}"}
      - name: chinese
        messages:
          - {role: user, content: "{{ hole }}孔深多少？"}
          - {role: assistant, content: "depth_m: {{ depth_m | number }}"}
  - name: not_stated
    when: depth_m is none
    messages:
      - {role: user, content: "How deep is {{ hole }}?"}
      - {role: assistant, content: "depth_m: not stated"}
  - name: rock
    variants:
      - name: granite
        when: rock == "granite"
        messages:
          - {role: user, content: "Example rock?"}
          - {role: assistant, content: "rock: basalt", train: false}
          - {role: user, content: "Rock of {{ hole }}?"}
          - {role: assistant, content: "rock: {{ rock }}"}
metric: {name: fields}
examples:
  - {row: {hole: A1, depth_m: 12.5, rock: granite, grade: 1}, task: depth, variant: plain, prompt: "How deep is A1?",
     answer: "depth_m: 12.5"}
  - {row: {hole: A1, depth_m: 12.5, rock: granite, grade: 1}, task: depth, variant: chinese, prompt: A1孔深多少？,
     answer: "depth_m: 12.5"}
  - {row: {hole: A1, rock: granite, grade: 1}, task: not_stated, answer: "depth_m: not stated"}
  - {row: {hole: A1, rock: granite, grade: 1}, task: rock, answer: "rock: granite"}
"""


def tasks(tmp_path, *changes):
    """The template above with text changed."""
    text = TASKS
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    file = tmp_path / "t.yaml"
    file.write_text(text, encoding="utf-8")
    return load_template(file)


def hole(name, depth, rock="granite", grade=1.0, line=1):
    return Row({"hole": name, "depth_m": depth, "rock": rock, "grade": grade}, "f.jsonl", line)


def test_one_record_gives_a_sample_for_each_task_that_applies(tmp_path):
    rows = [hole("A", 5), hole("B", None, "schist", line=2), hole("C", 7, grade=None, line=3)]
    result = tasks(tmp_path).render_rows(rows)
    assert [(sample.where, sample.answer) for sample in result.samples] == [
        ("f.jsonl:1", "depth_m: 5"),
        ("f.jsonl:1", "rock: granite"),
        ("f.jsonl:2", "depth_m: not stated"),
    ]
    assert result.dropped == ["f.jsonl:3: grade: is null"]
    assert result.samples[1].messages == (
        {"role": "user", "content": "Example rock?"},
        {"role": "assistant", "content": "rock: basalt", "train": False},
        {"role": "user", "content": "Rock of A?"},
        {"role": "assistant", "content": "rock: granite"},
    )


def test_a_row_to_which_no_task_applies_is_dropped_and_counted(tmp_path):
    template = tasks(tmp_path, ("when: depth_m is none", "when: depth_m is none and rock == 'granite'"))
    rows = [hole("B", None, "schist"), hole("A", 1, line=2)]
    assert template.render_rows(rows).dropped == ["f.jsonl:1: no task applies"]
    with pytest.raises(DataError) as caught:
        template.render_all(rows[:1])
    assert caught.value.problems == ["all 1 rows are dropped; the first: f.jsonl:1: no task applies"]


def test_the_variant_depends_on_the_record_alone(tmp_path):
    """Neither order nor the other rows matter; a third wording takes its share and moves no record between the others."""
    rows = [hole(f"H{n}", n, line=n) for n in range(300)]

    def questions(template, rows):
        return {s.record["hole"]: s.messages[0]["content"] for s in template.render_all(rows) if "depth" in s.answer}

    two = questions(tasks(tmp_path), rows)
    shuffled = random.Random(0).sample(rows, 300)
    assert questions(tasks(tmp_path), shuffled) == two
    assert questions(tasks(tmp_path), rows[7:8])["H7"] == two["H7"]
    chinese = sum("孔深" in text for text in two.values())
    assert chinese == 155  # of 300
    third = "      - name: short\n        messages:\n          - {role: user, content: '{{ hole }} depth?'}\n" \
            "          - {role: assistant, content: 'depth_m: {{ depth_m | number }}'}\n  - name: not_stated"  # fmt: skip
    three = questions(tasks(tmp_path, ("  - name: not_stated", third)), rows)
    moved = {name for name in two if three[name] != two[name]}
    assert all(three[name].endswith(" depth?") for name in moved)
    assert len(moved) == 102  # of 300


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("when: depth_m is none", "when: deptm_m is none",
         ":22: tasks.1.when: deptm_m: not a column; did you mean 'depth_m'?"),
        ("when: depth_m is none", "when: depth_m is", ":22: tasks.1.when: Jinja line 1: unexpected end of template"),
        ("when: rock ==", "when: rock | nosuch ==", ":29: tasks.2.variants.0.when: Jinja line 1: No filter named 'nosuch'."),
        ("metric: {name: fields}", "metric: {name: fields}\nmessages: [{role: assistant, content: x}]",
         ":1: give exactly one of `messages`, `variants` and `tasks`"),
        ("  - name: rock\n", "  - name: depth\n", ":1: task 'depth' is given twice"),
        ("train: false}", "train: no}", ":32: tasks.2.variants.0.messages.1.train: input should be a valid boolean"),
        ("{hole: A1, rock: granite, grade: 1}, task: rock", "{hole: A1, rock: granite, grade: 1}, task: rocks",
         ":42: task: no task 'rocks'; did you mean 'rock'?"),
        ("variant: chinese", "variant: zh", ":39: variant: no variant 'zh'; allowed: chinese, plain"),
        ("null: keep}", "nul: keep}", ":6: columns.depth_m.nul: unknown key; did you mean 'null'?"),
        ("null: keep}", "null: keeps}", ":6: columns.depth_m.null: input should be 'error', 'drop' or 'keep'"),
        ("null: keep}", "nullable: true, null: drop}",
         ":6: columns.depth_m: `nullable: true` means `null: keep`; this says `null: drop`"),
        ("hole: {type: str}", "hole: {type: str, items: int}", ":5: columns.hole: `items` is for type: list, this is str"),
        ("hole: {type: str}", "hole: {type: str, pattern: '['}", ":5: columns.hole: `pattern` is not a regular expression"),
    ],
)  # fmt: skip
def test_wrong_tasks(tmp_path, before, after, problem):
    with pytest.raises(DataError) as caught:
        tasks(tmp_path, (before, after))
    assert caught.value.problems[0].startswith(f"{tmp_path}/t.yaml{problem}")


def test_a_task_needs_an_example_and_a_when_gives_true_or_false(tmp_path):
    with pytest.raises(DataError) as caught:
        tasks(
            tmp_path, ("task: rock, answer", "task: not_stated, answer"), ('"rock: granite"}', '"depth_m: not stated"}')
        )
    assert caught.value.problems == [f"{tmp_path}/t.yaml:26: tasks: rock: no worked example names this task"]
    with pytest.raises(DataError) as caught:
        tasks(tmp_path, ("when: depth_m is not none", "when: depth_m"))
    assert caught.value.problems[0] == (
        f"{tmp_path}/t.yaml:37: `when` of task depth of {tmp_path}/t.yaml can't be evaluated: it gives 12.5; "
        "true or false is needed (`x is not none`, `x > 0`)"
    )


def test_columns_with_any_name_are_reached_through_record(tmp_path):
    """`record["..."]` holds every column; a name that is none is an error at load."""
    change = ("hole: {type: str}", 'hole: {type: str}\n  "浓度 (%)": {type: float, nullable: true}')
    text = ("How deep is {{ hole }}?", '{{ record["浓度 (%)"] | number }}: how deep is {{ hole }}?')
    quoted = (text[0], text[1].replace('"', '\\"'))
    with pytest.raises(DataError) as caught:
        tasks(tmp_path, change, quoted)
    assert caught.value.problems == [
        f"{tmp_path}/t.yaml:38: examples: the row renders to the prompt 'none: how deep is A1?'"
    ]
    wrong = (quoted[0], quoted[1].replace("浓度", "浓"))
    with pytest.raises(DataError) as caught:
        tasks(tmp_path, change, wrong)
    assert caught.value.problems[0] == (
        f"{tmp_path}/t.yaml:16: tasks.0.variants.0.messages: 浓 (%): not a column; did you mean '浓度 (%)'?"
    )


def test_a_column_called_record_is_not_the_record(tmp_path):
    """In Jinja it hides the whole record; what a sample keeps for split and metric is all columns."""
    file = tmp_path / "t.yaml"
    file.write_text(
        "name: t\ndescription: t\ncolumns: {record: {type: str}, a: {type: int}}\nmessages:\n"
        '  - {role: user, content: "{{ record }}"}\n  - {role: assistant, content: "{{ a }}"}\n'
        "metric: {name: number}\nexamples: [{row: {record: x, a: 1}, answer: '1'}]\n"
    )
    sample = load_template(file).render(Row({"record": "x", "a": 2}, "f", 1))
    assert sample.record == {"record": "x", "a": 2} and sample.prompt[0]["content"] == "x"


def test_nulls_by_rule():
    assert check_cell(None, Column(type="int", null="keep")) is None
    with pytest.raises(DropRowError):
        check_cell(None, Column(type="int", null="drop"))
    with pytest.raises(ValueError, match="is null; a value is needed"):
        check_cell(None, Column(type="int", null="error"))


@pytest.mark.parametrize("name", ["docs/data_template.md", "docs/data_template.zh-CN.md"])
def test_every_template_in_the_documents_loads(name, tmp_path):
    blocks = re.findall(r"```yaml\n(name:.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        file = tmp_path / "t.yaml"
        file.write_text(block, encoding="utf-8")
        load_template(file)
