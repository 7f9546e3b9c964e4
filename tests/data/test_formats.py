"""Known formats: which one rows have, exact samples out of each, and what is wrong with a malformed row."""

from __future__ import annotations

from functools import partial

import pytest

from finetune.data.formats import FORMATS, detect, to_samples
from finetune.data.rows import Row
from finetune.errors import DataError

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
ASK, SAY = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
GET = {"name": "get_ph", "parameters": {"type": "object", "properties": {"site": {"type": "string"}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_ph", "arguments": '{"site": "A",  "Depth": null}'}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "7.1"}


def row(values, line=1):
    return Row(values, "f.jsonl", line)


def sample(values, format="auto"):
    return to_samples([row(values)], format)[0]


def problems(values, format="auto", read=to_samples):
    with pytest.raises(DataError) as caught:
        read([row(values, 7)], format)
    assert all(problem.startswith("f.jsonl:7: ") for problem in caught.value.problems)
    return [problem.removeprefix("f.jsonl:7: ") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"messages": [USER, ANSWER], "tools": []}, "messages"),
        ({"conversations": [ASK, SAY], "id": 1}, "sharegpt"),
        ({"conversations": '[{"from": "human", "value": "q"}]'}, "sharegpt"),
        ({"conversations": [USER, ANSWER]}, "messages"),
        ({"instruction": "i", "output": "o"}, "alpaca"),
        ({"instruction": "i", "input": "", "output": "o", "history": [], "text": "t"}, "alpaca"),
        ({"prompt": "p", "completion": "c"}, "prompt_completion"),
        ({"prompt": "p", "completion": "c", "label": True}, "labelled"),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "preference"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "preference"),
        ({"text": "t", "id": 1}, "text"),
    ],
)
def test_the_format_is_told_by_the_columns(values, name):
    assert detect([row(values)]) == name


def test_rows_of_no_format_or_of_two_are_named():
    with pytest.raises(DataError, match=r"^f.jsonl:3: the columns \(question, reply\) are those of no known format \("):
        detect([row({"question": "q", "reply": "r"}, 3)])
    with pytest.raises(DataError, match=r"^f.jsonl:2: format text, but f.jsonl:1 is alpaca; give each its own source$"):
        detect([row({"instruction": "i", "output": "o"}), row({"text": "t"}, 2)])
    with pytest.raises(DataError, match="no rows whose format"):
        detect([])
    with pytest.raises(DataError, match=r"^data.format: 'mesages' is not a format; did you mean 'messages'"):
        to_samples([], "mesages")
    assert list(FORMATS) == [
        "preference", "labelled", "sharegpt", "messages", "alpaca", "prompt_completion", "text",
    ]  # fmt: skip


def test_messages_with_tools_keep_exact_argument_keys():
    """T44: tool arguments keep exact keys, spaces and nulls; schemas come in OpenAI's shape."""
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = sample({"messages": [USER, calling, RESULT, ANSWER], "tools": [GET], "source": "lab"})
    assert result.messages == (
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "7.1", "tool_call_id": "c1"},
        ANSWER,
    )
    assert result.tools == ({"type": "function", "function": GET},)
    assert (result.where, result.record["source"]) == ("f.jsonl:1", "lab")
    as_object = {"function": {"name": "get_ph", "arguments": {"Site": "A", "b": {"C": []}}}}
    calling = {"role": "assistant", "content": "let me see", "tool_calls": [as_object]}
    assert sample({"messages": [USER, calling], "tools": None}).messages[1] == {
        "role": "assistant",
        "content": "let me see",
        "tool_calls": [
            {"type": "function", "function": {"name": "get_ph", "arguments": {"Site": "A", "b": {"C": []}}}}
        ],
    }


def test_messages_keep_reasoning_flags_and_text_as_it_is():
    messages = [
        {"role": "developer", "content": "s"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "q "}, {"type": "text", "text": "<think>"}],
            "name": "li",
        },
        {"role": "assistant", "content": " a ", "weight": 0, "tool_calls": None, "refusal": None},
        {"role": "user", "content": "q", "weight": 1},
        {"role": "assistant", "content": "<think>x</think>a", "train": False},
        USER,
        {"role": "assistant", "content": "a", "reasoning_content": "why", "train": True, "id": "m6"},
    ]
    assert sample({"messages": messages}).messages == (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q <think>", "name": "li"},
        {"role": "assistant", "content": " a ", "train": False},
        USER,
        {"role": "assistant", "content": "<think>x</think>a", "train": False},
        USER,
        {"role": "assistant", "content": "a", "reasoning_content": "why"},
    )


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (None, ["messages: is null; a value is needed"]),
        ([], ["messages: a list of messages is needed, got []"]),
        ({"role": "user"}, ["messages: a list of messages is needed, got {'role': 'user'}"]),
        ("[{]", ["messages: not JSON: Expecting property name enclosed in double quotes (column 3)"]),
        ('[{"role": "user", "role": "user"}]', ["messages: not JSON: key given twice: 'role'"]),
        (["q"], ["messages[0]: an object with role and content is needed, got 'q'"]),
        ([{"role": "usr", "contnet": "q"}, {"content": "a"}],
         ["messages[0].contnet: not a key of a message; did you mean 'content'?",
          "messages[0].role: 'usr' is not a role; did you mean 'user'?",
          "messages[0].content: is null; text is needed",
          "messages[1].role: is missing; allowed: assistant, developer, system, tool, user"]),
        ([{"role": ["user"], "content": "q"}, ANSWER],
         ["messages[0].role: ['user'] is not a role; did you mean 'user'?"]),
        ([{"role": "user", "content": 5}, {"role": "assistant", "content": " \n"}],
         ["messages[0].content: text is needed, got 5", "messages[1].content: is empty"]),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "https://x"}]}, ANSWER],
         ["messages[0].content[0]: only parts of text can be trained on, got {'type': 'image_url', 'image_url': 'h..."]),
        ([USER, USER, ANSWER], ["messages[1]: user follows user; assistant is needed"]),
        ([USER, ANSWER, ANSWER], ["messages[2]: assistant follows assistant; user is needed"]),
        ([USER, ANSWER, {"role": "system", "content": "s"}],
         ["messages[2]: system follows assistant; user is needed",
          "messages: ends with system; the last message must be the assistant's"]),
        ([ANSWER], ["messages: the first message after the system's must be the user's"]),
        ([{"role": "system", "content": "s"}],
         ["messages: the first message after the system's must be the user's",
          "messages: ends with system; the last message must be the assistant's",
          "messages: no assistant message to train on"]),
        ([USER, ANSWER, USER], ["messages: ends with user; the last message must be the assistant's"]),
        ([USER, {**ANSWER, "train": False}], ["messages: no assistant message to train on"]),
        ([USER, {**ANSWER, "train": 0}], ["messages[1].train: true or false is needed, got 0"]),
        ([USER, {**ANSWER, "weight": 0.5}], ["messages[1].weight: 0 or 1 is needed, got 0.5"]),
        ([USER, {**ANSWER, "weight": True}], ["messages[1].weight: 0 or 1 is needed, got True"]),
        ([USER, {**ANSWER, "weight": 1, "train": False}], ["messages[1]: `train` and `weight` say different things"]),
        ([USER, {**ANSWER, "function_call": {"name": "f"}}],
         ["messages[1].function_call: not a key of a message; did you mean 'tool_calls'?"]),
        ([USER, RESULT, ANSWER],
         ["messages[1]: tool follows user; assistant is needed",
          "messages[1].tool_call_id: no call before it has the id 'c1'"]),
        ([USER, {"role": "assistant", "tool_calls": [CALL]}, USER, ANSWER],
         ["messages[2]: user follows assistant with tool calls; tool is needed"]),
        ([{**USER, "tool_calls": [CALL]}, ANSWER], ["messages[0].tool_calls: only the assistant calls tools, this is user"]),
        ([USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{'a': 1}"}}]}],
         ["messages[1].tool_calls[0].arguments: not JSON: "
          "Expecting property name enclosed in double quotes (column 2)"]),
        ([USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}, {"name": 3}]}],
         ["messages[1].tool_calls[0].arguments: an object is needed, got [1]",
          "messages[1].tool_calls[1]: a function with a name and arguments is needed, got {'name': 3}"]),
    ],
)  # fmt: skip
def test_malformed_messages(messages, expected):
    """T44: every problem of a row as `file:line: column: what`."""
    assert problems({"messages": messages}, "messages") == expected


def test_tools_are_checked_against_the_calls():
    calling = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    other = {**GET, "name": "get_phh"}
    assert problems({"messages": [USER, calling], "tools": [other]}) == [
        "messages[1].tool_calls: 'get_ph' is not among the tools; did you mean 'get_phh'?"
    ]
    assert problems({"messages": [USER, ANSWER], "tools": {"name": "f"}}) == [
        "tools: a list of tools is needed, got {'name': 'f'}"
    ]
    assert problems({"messages": [USER, ANSWER], "tools": ["f", {"type": "function", "function": {}}]}) == [
        "tools[0]: a function with a name is needed, got 'f'",
        "tools[1]: a function with a name is needed, got {'type': 'function', 'function': {}}",
    ]


def test_problems_of_all_rows_come_together():
    rows = [row({"messages": [USER]}, 1), row({"messages": [USER, ANSWER]}, 2), row({"messages": []}, 3)]
    with pytest.raises(DataError) as caught:
        to_samples(rows, "messages")
    assert caught.value.problems == [
        "f.jsonl:1: messages: ends with user; the last message must be the assistant's",
        "f.jsonl:1: messages: no assistant message to train on",
        "f.jsonl:3: messages: a list of messages is needed, got []",
    ]


def test_sharegpt():
    turns = [
        {"from": "human", "value": "pH?"},
        {"from": "function_call", "value": '{"name": "get_ph", "arguments": {"Site": null}}'},
        {"from": "observation", "value": ""},
        {"from": "gpt", "value": "<think>7</think>neutral", "weight": 1},
        {"from": "human", "value": "sure?"},
        {"from": "gpt", "value": "yes", "train": False},
    ]
    tools = '[{"name": "get_ph", "parameters": {}}]'
    result = sample({"conversations": turns, "system": "be brief", "tools": tools})
    call = {"type": "function", "function": {"name": "get_ph", "arguments": {"Site": None}}}
    assert result.messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "pH?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": "<think>7</think>neutral"},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "yes", "train": False},
    )
    assert result.tools == ({"type": "function", "function": {"name": "get_ph", "parameters": {}}},)
    assert sample({"conversations": [{"from": "system", "value": "s"}, ASK, SAY], "system": "", "tools": ""}).messages == (
        {"role": "system", "content": "s"}, USER, ANSWER,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"conversations": [{"from": "humann", "value": "q"}, {"from": "gpt"}]},
         ["conversations[0].from: 'humann' is not a speaker; did you mean 'human'?",
          "conversations[1].value: is null; text is needed"]),
        ({"conversations": [ASK, ASK, SAY]}, ["conversations[1]: user follows user; assistant is needed"]),
        ({"conversations": [SAY]}, ["conversations: the first message after the system's must be the user's"]),
        ({"conversations": []}, ["conversations: a list of turns is needed, got []"]),
        ({"conversations": [ASK, "a"]}, ["conversations[1]: an object with from and value is needed, got 'a'"]),
        ({"conversations": [ASK, {"from": "function_call", "value": "get_ph()"}]},
         ["conversations[1].value: not JSON: Expecting value (column 1)"]),
        ({"conversations": [ASK, SAY], "tools": "[{]"},
         ["tools: not JSON: Expecting property name enclosed in double quotes (column 3)"]),
        ({"conversations": [{"from": "system", "value": "s"}, ASK, SAY], "system": "t"},
         ["system: the conversation has a system message of its own"]),
        ({"conversations": [ASK, {**SAY, "weight": 2}]}, ["conversations[1].weight: 0 or 1 is needed, got 2"]),
    ],
)  # fmt: skip
def test_malformed_sharegpt(values, expected):
    """T44"""
    assert problems(values, "sharegpt") == expected


def test_alpaca():
    """The shape of the finance samples of DISC-FinLLM: earlier pairs in `history`, empty `input`."""
    values = {"instruction": "那就业呢？", "input": "", "output": "很好。", "history": [["你好", "你好！"]]}
    assert sample(values).messages == (
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"},
        {"role": "user", "content": "那就业呢？"},
        {"role": "assistant", "content": "很好。"},
    )
    values = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": None}
    assert sample(values).messages == (
        {"role": "system", "content": "s"}, {"role": "user", "content": "Add.\n1 2"}, {"role": "assistant", "content": "3"},
    )  # fmt: skip
    assert problems({"instruction": None, "input": 3, "output": "\u3000", "history": [["a"], ["a", ""]]}) == [
        "history[0]: [question, answer] is needed, got ['a']",
        "history[1][1]: is empty",
        "instruction: is null; text is needed",
        "output: is empty",
        "input: text is needed, got 3",
    ]
    assert problems({"instruction": "i", "output": "o", "history": {}}) == [
        "history: a list of [question, answer] is needed, got {}"
    ]


def test_prompt_completion_trains_the_completion_only():
    assert sample({"prompt": "q", "completion": "a"}).messages == (USER, ANSWER)
    assert sample({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}).messages == (
        USER, {**ANSWER, "train": False}, USER, ANSWER,
    )  # fmt: skip
    assert problems({"prompt": [USER], "completion": [USER, ANSWER]}) == [
        "completion[0]: the assistant's message is needed, got user"
    ]
    assert problems({"prompt": [USER, ANSWER], "completion": "a"}) == [
        "prompt + completion[2]: assistant follows assistant; user is needed"
    ]
    assert problems({"prompt": "", "completion": 3}) == ["prompt: is empty", "completion: text is needed, got 3"]


def test_preference_pairs():
    better, worse = {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "w"}
    read = partial(to_samples, stage="dpo")
    for values in (
        {"prompt": "q", "chosen": "b", "rejected": "w"},
        {"prompt": [USER], "chosen": [better], "rejected": [worse]},
        {"chosen": [USER, better], "rejected": [USER, worse]},
    ):
        [sample] = read([row(values)], "auto")
        assert (sample.messages, sample.rejected, sample.where) == ((USER, better), (USER, worse), "f.jsonl:1")
    assert problems({"prompt": "q", "chosen": "b", "rejected": "b"}, read=read) == ["rejected: is the same as chosen"]
    assert problems({"prompt": "q", "chosen": "", "rejected": None}, read=read) == [
        "chosen: is empty", "rejected: is null; text is needed",
    ]  # fmt: skip
    assert problems({"chosen": "b", "rejected": "w"}, read=read) == [
        "prompt: is missing, and chosen and rejected begin with no message in common"
    ]
    [long] = read([row({"prompt": [USER, ANSWER, USER], "chosen": "b", "rejected": "w"})], "auto")
    context = {**ANSWER, "train": False}
    assert (long.messages, long.rejected) == ((USER, context, USER, better), (USER, context, USER, worse))


def test_labelled_answers():
    read = partial(to_samples, stage="kto")
    for values, mark in (
        ({"prompt": "q", "completion": "a", "label": True}, 1.0),
        ({"prompt": [USER], "completion": [ANSWER], "label": "False"}, 0.0),
    ):
        [sample] = read([row(values)], "auto")
        assert (sample.messages, sample.marks) == ((USER, ANSWER), (mark,))
    assert problems({"prompt": "q", "completion": "a", "label": 1}, read=read) == [
        "label: true or false is needed, got 1"
    ]


@pytest.mark.parametrize(
    ("values", "name", "stages"),
    [
        ({"text": "t"}, "text", "cpt"),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "preference", "dpo, orpo, simpo, reward"),
        ({"prompt": "p", "completion": "c", "label": True}, "labelled", "kto"),
    ],
)
def test_stage_sft_refuses_what_is_for_another_stage(values, name, stages):
    for format in ("auto", name):
        with pytest.raises(DataError) as caught:
            to_samples([row(values), row(values, 2)], format)
        assert caught.value.problems == [
            f"f.jsonl: format {name} is for stage {stages}; stage sft trains on sharegpt, messages, alpaca, "
            "prompt_completion"
        ]


def test_plain_text():
    [sample] = to_samples([row({"text": " a\n"})], "text", "cpt")
    assert sample.messages == ({"role": "text", "content": " a\n"},) and sample.prompt == ()
    assert problems({"text": " \n"}, "text", partial(to_samples, stage="cpt")) == ["text: is empty"]
