"""Data templates: cells against their columns, Jinja against the columns, worked examples."""

from __future__ import annotations

import pytest
import yaml

from finetune.data.rows import Row
from finetune.data.template import Column, check_cell, load_template
from finetune.errors import DataError


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
        ({"type": "list", "items": "int"}, [1, "x"], "a whole number is needed, got 'x'"),
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


def test_templates_run_in_a_sandbox(tiny_data, tmp_path):
    """T47: Jinja in a template reaches no Python internals."""
    for payload in (
        "{{ a.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ group.format.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    ):
        problem = changed(tiny_data, tmp_path, lambda c, text=payload: c["messages"][1].update(content=text))[0]
        assert "can't be rendered" in problem or "not a column" in problem


def test_a_nullable_column_that_no_row_has_is_a_typo(tiny_data, tmp_path):
    content = yaml.safe_load((tiny_data / "larger.yaml").read_text())
    content["columns"]["grup"] = {"type": "str", "nullable": True}
    content["examples"][0]["row"]["grup"] = None
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(DataError) as caught:
        load_template(file).render_all([Row({"a": 1, "b": 2, "group": "x"}, "f.jsonl", 1)])
    assert caught.value.problems == ["f.jsonl: grup: no row has this column; did you mean 'group'?"]


def test_null_and_number_filters():
    from finetune.data.template import ENVIRONMENT

    text = "{{ x | number }} {{ y | number }} {{ z | decimals(2) }} {{ w | or_null }} {{ v | or_null('-') }} {{ u | number }}"
    assert ENVIRONMENT.from_string(text).render(x=12.0, y=None, z=30.1, w=[], v=None, u=0) == "12 none 30.10 none - 0"
