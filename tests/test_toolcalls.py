"""Tool calls read back from what chat templates write, and scored; by hand."""

from __future__ import annotations

import pytest

from finetune.data.chat import ChatEncoder
from finetune.data.rows import Sample
from finetune.data.template import Metric
from finetune.data.toolschema import calls_text
from finetune.errors import DataError
from finetune.evaluate.callforms import answer_text, check_readable, read_calls, unreadable
from finetune.evaluate.metrics import score_names
from finetune.evaluate.toolcalls import equal, tool_calls
from tests.conftest import CHATML_TOOLS, byte_tokenizer
from tests.data.chats import assistant, golden_names, template_tokenizer, user

TOOL = {"type": "function", "function": {"name": "npv", "parameters": {"type": "object", "properties": {
    "rate": {"type": "number"}, "unit": {"type": "string"}, "flows": {"type": "array"}, "real": {"type": "boolean"},
}}}}  # fmt: skip
METRIC = Metric(name="tool_calls")
A = {"name": "npv", "arguments": {"rate": 0.08, "flows": [-100, 60]}}
B = {"name": "irr", "arguments": {"flows": [-100, 60]}}
NAMES = ("all_right", "call_decision", "valid_calls", "call_names", "call_arguments")
XML = (
    "<tool_call>\n<function=npv>\n<parameter=rate>\n0.08\n</parameter>\n<parameter=unit>\n7\n</parameter>\n</function>"
)
XML += "\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>', "", [("f", {"x": 1})]),
        ('I look.\n<tool_call>{"name": "f", "arguments": {}}</tool_call>\n<tool_call>{"name": "g", "arguments": {"a": "<"}}'
         "</tool_call>", "I look.", [("f", {}), ("g", {"a": "<"})]),
        (XML, "", [("npv", {"rate": 0.08, "unit": "7"})]),
        (XML.replace("0.08", "True").replace("rate", "real"), "", [("npv", {"real": True, "unit": "7"})]),
        ("<tool_call>npv\n<arg_key>rate</arg_key>\n<arg_value>0.08</arg_value>\n<arg_key>unit</arg_key>"
         "<arg_value>7</arg_value></tool_call>", "", [("npv", {"rate": 0.08, "unit": "7"})]),
        ('{"name": "f", "parameters": {"x": 1}}', "", [("f", {"x": 1})]),
        ('<|python_tag|>{"name": "f", "parameters": {"x": 1}}<|eom_id|>', "", [("f", {"x": 1})]),
        ('[TOOL_CALLS][{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]</s>', "",
         [("f", {"x": 1}), ("g", {})]),
        ('Well.[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[CALL_ID]c1[ARGS]{}', "Well.", [("f", {"x": 1}), ("g", {})]),
        ('<|tool_call>call:f{x:<|"|>a, b:c<|"|>,n:[1,true]}<tool_call|>', "", [("f", {"x": "a, b:c", "n": [1, True]})]),
        ("<|tool_call_start|>[f(x='a', n=None), g()]<|tool_call_end|>", "", [("f", {"x": "a", "n": None}), ("g", {})]),
        ('to=functions.f<|channel|>commentary json<|message|>{"x": 1}<|call|>', "", [("f", {"x": 1})]),
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜>"
         "<｜tool▁calls▁end｜>", "", [("f", {})]),
        ('I look.\n[{"name": "f", "arguments": {"x": 1}}]', "I look.", [("f", {"x": 1})]),
    ],
)  # fmt: skip
def test_read_calls(text, said, calls):
    """What the schema calls a string stays one; `True` is what Python wrote for true."""
    assert read_calls(text, [TOOL]) == (said, [{"name": name, "arguments": given} for name, given in calls])


@pytest.mark.parametrize(
    "text",
    [
        "", "NPV: 15.57", '<tool_call>{"name": "f"', '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>', '{"name": "f", "arguments": {}} and more', '{"title": "f"}',
        "<|tool_call_start|>[__import__('os').system('x')]<|tool_call_end|>", "[TOOL_CALLS]", "[" * 100_000,
        '<tool_call>{"name": "f", "arguments": {}}</tool_call> and more',
    ],
)  # fmt: skip
def test_what_is_no_call(text):
    assert read_calls(text) == (text.strip(), [])
    assert answer_text(text, "plain", [TOOL]) == "plain"


def test_answers_in_canonical_form():
    raw = '<tool_call>\n{"name": "f",   "arguments": {"b": "é", "a": 1}}\n</tool_call>'
    text = answer_text(raw, "plain", [TOOL])
    assert text == '[{"name": "f", "arguments": {"b": "é", "a": 1}}]'
    assert answer_text("Soon. " + raw, "plain", ()) == "Soon.\n" + text
    assert answer_text(text, text, ()) == text


# Of the golden templates; the others show no tools, or write calls as none that is known.
READ = {
    "deepseekv3", "diffusion_gemma", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "glm4moe", "gptoss",
    "lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl", "lfm2_v2", "llama3_1", "llama3_2", "nemotron_3_5_lightning",
    "nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra", "qwen2_5", "qwen3", "qwen3_5_nothink", "qwen3_5_think",
    "qwen3_6", "qwen3_8", "qwen3_instruct_2507", "qwen3_vl",
}  # fmt: skip


def test_which_templates_write_calls_that_can_be_read():
    found = {name: unreadable(ChatEncoder(template_tokenizer(name)).template) for name in golden_names()}
    assert {name for name, written in found.items() if written is None} == READ
    assert found["muse_glimmer"] is not None and "</atem:function_calls>" in found["muse_glimmer"]


def test_a_template_whose_calls_can_not_be_read_is_refused_before_training():
    template = ChatEncoder(template_tokenizer("muse_glimmer")).template
    calling = Sample({}, (user("a"), assistant("", tool_calls=[{"function": A}])), "f:1", (TOOL,))
    metrics = {"": Metric(name="exact_match"), "scored": METRIC}
    with pytest.raises(
        DataError, match=r"f:1: answers may be tool calls, which the chat template of .* can't be read back"
    ):
        check_readable(template, [calling], metrics)
    asked = Sample({}, (user("a"), assistant("b")), "f:2", (TOOL,))
    check_readable(template, [asked], metrics)  # no call is wanted or scored
    with pytest.raises(DataError, match="f:2: answers may be tool calls"):
        check_readable(template, [Sample({}, asked.messages, "f:2", (TOOL,), "scored")], metrics)


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        ([A], [A], (1, 1, 1, 1, 1)),
        ([{**A, "arguments": {"flows": [-100.0, 60], "rate": 0.080}}], [A], (1, 1, 1, 1, 1)),
        ([B, A], [A, B], (1, 1, 1, 1, 1)),
        ([{**A, "arguments": {"rate": 8, "flows": [-100, 60]}}], [A], (0, 1, 1, 1, 1 / 2)),
        ([{**A, "arguments": {"rate": 0.08}}], [A], (0, 1, 1, 1, 1 / 2)),
        ([{**A, "arguments": A["arguments"] | {"unit": "x"}}], [A], (0, 1, 1, 1, 2 / 3)),
        ([B], [A], (0, 1, 1, 0, 0)),
        ([A, B], [A], (0, 1, 1, 1 / 2, 2 / 3)),
        ([A], [A, B], (0, 1, 1, 1 / 2, 2 / 3)),
        ([], [A], (0, 0, 0, 0, 0)),
        ([{"name": "now", "arguments": {}}], [{"name": "now", "arguments": {}}], (1, 1, 1, 1, 1)),
        ([{**A, "arguments": {"rate": 0.1, "flows": []}}, A], [A, A], (0, 1, 1, 1, 1 / 2)),
    ],
)
def test_calls_that_are_wanted(given, wanted, expected):
    """A has 2 arguments, B 1. [A, B] for [A]: 2 right of 2 + 1. The last: the whole match is not spent on a half one."""
    answer = calls_text(given) if given else "NPV: 3"
    assert tool_calls(answer, calls_text(wanted), METRIC) == pytest.approx(dict(zip(NAMES, expected, strict=True)))


def test_in_order():
    ordered = Metric(name="tool_calls", ordered=True)
    assert tool_calls(calls_text([A, B]), calls_text([A, B]), ordered)["all_right"] == 1
    scores = tool_calls(calls_text([B, A]), calls_text([A, B]), ordered)
    assert scores["all_right"] == scores["call_names"] == scores["call_arguments"] == 0 and scores["valid_calls"] == 1


def test_where_no_call_is_wanted():
    assert tool_calls("Which rate?", "Which discount rate?", METRIC) == {"all_right": 1, "call_decision": 1}
    assert tool_calls(calls_text([A]), "Which rate?", METRIC) == {"all_right": 0, "call_decision": 0}
    assert score_names("Which rate?", METRIC) == ["all_right", "call_decision"]


def test_equal():
    assert equal({"a": [1, 2.0], "b": None}, {"b": None, "a": [1.0, 2]})
    assert not equal(1, True) and not equal("1", 1) and not equal([1, 2], [2, 1]) and not equal({"a": 1}, {})


def test_answers_of_a_model_are_read_with_their_special_tokens():
    """A call marked by a special token (Mistral's [TOOL_CALLS]), which plain text leaves out; the stop token is none of it."""
    from finetune.evaluate.generate import Answer, with_calls

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "[ARGS]"]})
    tokenizer.chat_template = CHATML_TOOLS
    ids = tuple(tokenizer('[TOOL_CALLS]f[ARGS]{"x": 1}<|im_end|>', add_special_tokens=False).input_ids)
    plain = Answer('f{"x": 1}', True, ids)
    assert with_calls(plain, (TOOL,), tokenizer).text == '[{"name": "f", "arguments": {"x": 1}}]'
    assert with_calls(plain, (), tokenizer) is plain
    cut = Answer('f{"x": 1', False, ids[:-2])
    assert with_calls(cut, (TOOL,), tokenizer) == cut


def test_ollama_is_refused_for_data_with_tools():
    """The template that is made for it shows no tools; nothing else would say so before a user asks in vain."""
    from finetune.errors import RecipeError
    from finetune.export.converted import check_tokenizer
    from finetune.recipe_export import TargetSection

    tokenizer = byte_tokenizer()
    prompts = [[user("a")]]
    check_tokenizer(tokenizer, prompts, [TargetSection(engine="ollama")])
    with pytest.raises(
        RecipeError, match=r"export\.targets: ollama: the data have tools, for which the template made for"
    ):
        check_tokenizer(tokenizer, prompts, [TargetSection(engine="ollama")], tools=True)
    check_tokenizer(tokenizer, prompts, [TargetSection(engine="vllm")], tools=True)
