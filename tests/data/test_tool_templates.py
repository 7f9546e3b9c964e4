"""Tool calls in data templates: rendered with their types, held against the schemas, shown to the model or refused."""

from __future__ import annotations

import json

import pytest

from finetune.data.chat import IGNORED, ChatEncoder
from finetune.data.native import expression_of
from finetune.data.rows import Row, Sample
from finetune.data.template import load_template
from finetune.data.toolschema import call_problems, calls_text, schema_problem
from finetune.errors import DataError
from tests.conftest import CHATML, CHATML_TOOLS, ROOT, byte_tokenizer
from tests.data.chats import TOOLS, assistant, template_tokenizer, user

STATION = {
    "name": "observe",
    "description": "Observations of a station.",
    "parameters": {
        "type": "object",
        "properties": {
            "station": {"type": "string", "pattern": "^[A-Z]{4}$"},
            "hours": {"type": "integer", "minimum": 1},
            "elements": {"type": "array", "items": {"enum": ["wind", "rain"]}},
        },
        "required": ["station"],
    },
}
OFFERED = ({"type": "function", "function": STATION},)


def written(**changes):
    """A template of one station query, with changes on top."""
    return {
        "name": "observe",
        "description": "asks a station",
        "columns": {
            "station": {"type": "str"},
            "hours": {"type": "int", "nullable": True},
            "elements": {"type": "list", "items": "str"},
            "rain": {"type": "float"},
        },
        "tools": [STATION],
        "messages": [
            {"role": "user", "content": "Rain at {{ station }}?"},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {
                        "name": "observe",
                        "arguments": {"station": "{{ station }}", "hours": "{{ hours }}", "elements": "{{ elements }}"},
                    }
                ],
            },
            {"role": "tool", "content": "{{ {'rain': rain} | tojson }}"},
            {"role": "assistant", "content": "{{ rain | number }} mm"},
        ],
        "metric": {"name": "exact_match"},
        "examples": [{"row": record(), "answer": "1.5 mm"}],
    } | changes


def record(**changes):
    return {"station": "ENBR", "hours": 6, "elements": ["rain"], "rain": 1.5} | changes


def loaded(tmp_path, **changes):
    file = tmp_path / "observe.yaml"
    file.write_text(json.dumps(written(**changes), indent=1), encoding="utf-8")  # JSON is YAML
    return load_template(file)


def test_messages_of_a_call_and_its_result(tmp_path):
    """Whole expressions keep their type; ids are counted, and the result has the id and the name of its call."""
    sample = loaded(tmp_path).render(Row(record(), "rows.jsonl", 1))
    call = {"name": "observe", "arguments": {"station": "ENBR", "hours": 6, "elements": ["rain"]}}
    assert sample.tools == OFFERED
    assert sample.messages == (
        {"role": "user", "content": "Rain at ENBR?"},
        {"role": "assistant", "content": "I look.",
         "tool_calls": [{"id": "call00000", "type": "function", "function": call}]},
        {"role": "tool", "content": '{"rain": 1.5}', "tool_call_id": "call00000", "name": "observe"},
        {"role": "assistant", "content": "1.5 mm"},
    )  # fmt: skip


def test_an_answer_that_calls(tmp_path):
    """The answer is the text and, on a line of its own, the calls; two calls of a column, one from text in JSON."""
    messages = [
        {"role": "user", "content": "Rain at {{ station }}?"},
        {"role": "assistant", "content": "I look.", "tool_calls": "{{ calls }}"},
    ]
    calls = [
        {"name": "observe", "arguments": {"station": "ENBR"}},
        {"name": "observe", "arguments": '{"station":"ENZV"}'},
    ]
    answer = (
        'I look.\n[{"name": "observe", "arguments": {"station": "ENBR"}}, '
        '{"name": "observe", "arguments": {"station": "ENZV"}}]'
    )
    template = loaded(
        tmp_path, messages=messages, columns={"station": {"type": "str"}, "calls": {"type": "list"}},
        metric={"name": "tool_calls"}, examples=[{"row": {"station": "ENBR", "calls": calls}, "answer": answer}],
    )  # fmt: skip
    sample = template.render(Row({"station": "ENBR", "calls": calls}, "rows.jsonl", 1))
    assert [call["id"] for call in sample.messages[-1]["tool_calls"]] == ["call00000", "call00001"]
    assert sample.answer == answer
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: tool_calls: there is none; such records need a variant or a task"
    ):
        template.render(Row({"station": "ENBR", "calls": []}, "rows.jsonl", 1))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"station": "bergen"}, "observe: station: 'bergen' does not match '^[A-Z]{4}$'"),
        ({"hours": None}, "observe: hours: None is not of type 'integer'"),
        ({"hours": 0}, "observe: hours: 0 is less than the minimum of 1"),
        ({"elements": ["rain", "snow"]}, "observe: elements[1]: 'snow' is not one of ['wind', 'rain']"),
    ],
)
def test_arguments_that_the_schema_refuses(tmp_path, changes, problem):
    template = loaded(tmp_path)
    with pytest.raises(DataError) as error:
        template.render(Row(record(**changes), "rows.jsonl", 7))
    assert error.value.problems == [f"rows.jsonl:7: a tool call of {tmp_path}/observe.yaml: {problem}"]


def test_call_problems():
    assert call_problems("observe", {"station": "ENBR", "hours": 6.0}, OFFERED) == []
    assert call_problems("observ", {}, OFFERED) == ["'observ' is not among the tools; did you mean 'observe'?"]
    assert call_problems("observe", [1], OFFERED) == ["observe: arguments: an object is needed, got [1]"]
    assert call_problems("observe", {"stations": "ENBR"}, OFFERED) == [
        "observe: stations: not a parameter; did you mean 'station'?",
        "observe: 'station' is a required property",
    ]
    assert call_problems("observe", {"station": "ENBR", "more": 1}, OFFERED, closed=False) == []
    bare = ({"type": "function", "function": {"name": "now"}},)
    assert call_problems("now", {"x": 1}, bare) == []


def test_a_schema_leads_nowhere_else():
    """A reference to another file is not followed; it is an error of the call, not a request."""
    remote = {"type": "object", "properties": {"x": {"$ref": "http://example.com/x.json"}}}
    (problem,) = call_problems("f", {"x": 1}, [{"type": "function", "function": {"name": "f", "parameters": remote}}])
    assert problem == "f: its schema can't be used: Unresolvable: http://example.com/x.json"
    assert schema_problem({"function": {"name": "f", "parameters": {"type": "array"}}}) is not None
    assert schema_problem({"function": {"name": "f", "parameters": {"properties": {"x": {"type": "str"}}}}}) is not None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tools": [{"name": "f", "parameters": {"properties": {"x": {"type": "str, optional"}}}}]},
         "tools.0: parameters: properties.x.type: 'str, optional' is not valid under any of the given schemas"),
        ({"tools": [{"name": "f", "parameters": {"properties": {"x": {"description": "now", "or later": None}}}}]},
         "tools.0: parameters: properties.x.or later: has no value (in YAML a comma ends unquoted text in braces)"),
        ({"tools": [{"description": "no name"}]}, "tools.0: a function with a name is needed, got "),
        ({"tools": None}, "a message calls tools, but there are no `tools`"),
        ({"tools": "{{ tool }}"}, "tools: tool: not a column"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"},
                       {"role": "assistant", "content": "c"}]}, "message 2 is a tool's, but no call stands before it"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": "{{ elements }}"},
                       {"role": "assistant", "content": "c"}]}, "only the assistant calls tools, this is user"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"name": "observe"}]}],
          "metric": {"name": "number"}}, "the answer calls tools, which metric number can't score; tool_calls can"),
        ({"messages": [{"role": "user", "content": "a"},
                       {"role": "assistant", "tool_calls": [{"name": "observe", "argument": {}}]}]},
         "messages.1.tool_calls.0.argument: unknown key; did you mean 'arguments'?"),
        ({"messages": [{"role": "user", "content": "a"},
                       {"role": "assistant", "tool_calls": [{"name": "observe", "arguments": {"station": "{{ stat }}"}}]}]},
         "messages.1.tool_calls.0.arguments.station: stat: not a column; did you mean 'station'?"),
        ({"messages": [{"role": "user", "content": "a"},
                       {"role": "assistant", "tool_calls": [{"name": "observe", "arguments": {"station": "{{ station"}}]}]},
         "messages.1.tool_calls.0.arguments.station: Jinja line 1: "),
    ],
)  # fmt: skip
def test_templates_that_are_refused(tmp_path, changes, problem):
    with pytest.raises(DataError) as error:
        loaded(tmp_path, **changes)
    assert problem in "\n".join(error.value.problems)
    assert all(line.startswith(f"{tmp_path}/observe.yaml:") for line in error.value.problems)


def test_a_result_for_each_call(tmp_path):
    messages = written()["messages"]
    del messages[2]
    with pytest.raises(
        DataError, match="1 calls before the answer, 0 results; a `tool` message for each call is needed"
    ):
        loaded(tmp_path, messages=messages)


def test_tools_of_a_record_and_of_a_task(tmp_path):
    """A column may bring the tools; a task's own go before the file's."""
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    tasks = [{"name": "x", "messages": asked, "tools": "{{ tools }}"}, {"name": "y", "messages": asked}]
    row = {"tools": [{"name": "g"}]}
    template = loaded(
        tmp_path, tasks=tasks, messages=None, columns={"tools": {"type": "list"}},
        examples=[{"task": task, "row": row, "answer": "b"} for task in "xy"],
    )  # fmt: skip
    tools = [sample.tools for sample in template.render_all([Row(row, "rows.jsonl", 1)])]
    assert tools == [({"type": "function", "function": {"name": "g"}},), OFFERED]
    bad = {"tools": [{"name": "g", "parameters": {"properties": {"n": {"type": "int"}}}}]}
    with pytest.raises(DataError, match=r"rows.jsonl:1: tools\[0\]: parameters: properties.n.type: 'int' is not valid"):
        template.render(Row(bad, "rows.jsonl", 1), "x")


@pytest.mark.parametrize(
    ("text", "expression"),
    [("{{ x }}", "x"), (" {{- x | round(2) -}} ", "x | round(2)"), ("{{ x }}{{ y }}", None), ("a {{ x }}", None),
     ("{{ '}}' }}", "'}}'"), ("{{ {'a': {'b': 1}} }}", "{'a': {'b': 1}}"), ("x", None)],
)  # fmt: skip
def test_expression_of(text, expression):
    assert expression_of(text) == expression


def test_calls_text():
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": "é"}'}}, {"name": "g"}]
    assert calls_text(calls) == '[{"name": "f", "arguments": {"x": "é"}}, {"name": "g", "arguments": {}}]'


def test_trained_is_the_call_as_the_chat_template_writes_it(tmp_path):
    """Both assistant turns; the result and the tools are context."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML_TOOLS
    (example,) = ChatEncoder(tokenizer).encode(loaded(tmp_path).render(Row(record(), "rows.jsonl", 1)))
    said = tokenizer.decode([label for label in example.labels if label != IGNORED])
    call = '{"name": "observe", "arguments": {"station": "ENBR", "hours": 6, "elements": ["rain"]}}'
    assert said == f"I look.<tool_call>\n{call}\n</tool_call><|im_end|>1.5 mm<|im_end|>"
    text = tokenizer.decode(example.ids)
    assert text.startswith("<|im_start|>system\nTools:\n" + json.dumps(OFFERED[0], ensure_ascii=False))


def test_templates_that_lose_tools_or_calls_are_refused():
    plain = byte_tokenizer()
    plain.chat_template = CHATML
    encoder = ChatEncoder(plain)
    sample = Sample({}, (user("a"), assistant("b")), "f:1", TOOLS)
    with pytest.raises(DataError, match="f:1: the chat template does not show the tools; take a base whose"):
        encoder.encode(sample)
    with pytest.raises(DataError, match="f:2: the chat template does not show the tools"):
        encoder.encode_prompt(sample.prompt, TOOLS, "f:2")
    quiet = assistant("", tool_calls=[{"function": {"name": "weather", "arguments": {}}}], train=False)
    with pytest.raises(DataError, match="f:3: the chat template does not show the tool call of assistant message 1"):
        encoder.encode(Sample({}, (user("a"), quiet, {"role": "tool", "content": "c"}, assistant("b")), "f:3"))
    assert ChatEncoder(template_tokenizer("qwen2_5")).template.shows_tools
    assert not ChatEncoder(template_tokenizer("smollm2")).template.shows_tools
    with pytest.raises(DataError, match="does not show the tools"):
        ChatEncoder(plain, train_on="all").encode(sample)


def test_ready_conversations_are_held_against_their_schemas():
    """Arguments named in the schema must fit it; further ones are the data's business, as JSON Schema has it."""
    from finetune.data.formats import to_samples

    def row(arguments):
        call = {"type": "function", "function": {"name": "observe", "arguments": arguments}}
        return Row({"tools": [STATION], "messages": [user("a"), assistant("", tool_calls=[call])]}, "f.jsonl", 3)

    assert len(to_samples([row('{"station": "ENBR", "x": 1}')], "messages")) == 1
    with pytest.raises(DataError) as error:
        to_samples([row('{"station": "ENBR", "hours": "6"}')], "messages")
    assert error.value.problems == ["f.jsonl:3: messages[1].tool_calls: observe: hours: '6' is not of type 'integer'"]


def test_the_cash_flow_calls_are_of_three_kinds():
    sample = ROOT / "data_templates/finance/cashflow_tools.sample.jsonl"
    rows = [json.loads(line) for line in sample.read_text(encoding="utf-8").splitlines()]
    samples = load_template(ROOT / "data_templates/finance/cashflow_tools.yaml").render_all(
        [Row(row, sample.name, line) for line, row in enumerate(rows, 1)]
    )
    assert {task: sum(s.task == task for s in samples) for task in ("call", "report", "ask")} == {
        "call": 468, "report": 468, "ask": 92,
    }  # fmt: skip
    worked = next(s for s in samples if s.task == "call" and s.record["asked"] == "npv")
    arguments = worked.messages[-1]["tool_calls"][0]["function"]["arguments"]
    value = sum(flow / (1 + arguments["rate"]) ** year for year, flow in enumerate(arguments["cashflows"]))
    assert abs(value - worked.record["result"]) < 0.005
