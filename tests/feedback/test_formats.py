"""The shapes of logs, lines that belong together, and lines that are none, with the exact message."""

from __future__ import annotations

import gzip
import json

import pytest

from finetune.errors import DataError
from finetune.feedback import log
from finetune.feedback.intake import import_logs
from finetune.feedback.settings import Settings
from tests.feedback.logs import assistant, imported, left_out, line, said, user, values, write

MESSAGE = {"role": "assistant", "content": "4", "refusal": None, "annotations": []}
RESPONSE = {
    "id": "chatcmpl-7", "object": "chat.completion", "created": 1764000000, "model": "served-1", "system_fingerprint": "fp_1",
    "choices": [{"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop"}], "usage": {"total_tokens": 9},
}  # fmt: skip
REQUEST = {"model": "served", "messages": [user("2+2?")], "temperature": 0}
ROW = {"messages": [user("2+2?"), assistant("4")]}


def judged(messages, answer):
    return line(messages, [answer], {"rating": "up"})


@pytest.mark.parametrize(
    "lines",
    [
        [{"request": REQUEST, "response": RESPONSE, "feedback": {"rating": "up"}}],
        [{"messages": [user("2+2?"), assistant("4")], "rating": True}],
        [{"messages": [user("2+2?"), assistant("4")], "feedback": [{"rating": 5}]}],
        [{"messages": REQUEST["messages"], "model": "served", "response": RESPONSE, "rating": "good"}],
        [{"request": json.dumps(REQUEST), "response": json.dumps(RESPONSE), "rating": "good"}],
        [
            {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": REQUEST},
            {"id": "b", "custom_id": "a", "response": {"status_code": 200, "request_id": "r", "body": RESPONSE}, "error": None,
             "feedback": {"rating": "up"}},
        ],
        [
            {"id": "chatcmpl-7", "feedback": {"rating": "up"}},
            {"request": REQUEST, "response": RESPONSE},
        ],
        [
            {"custom_id": "a", "body": REQUEST}, {"custom_id": "a", "response": {"body": RESPONSE}},
            {"custom_id": "a", "rating": "up"},
        ],
        [RESPONSE, {"id": "chatcmpl-7", "request": REQUEST}, {"id": "chatcmpl-7", "rating": "up"}],
    ],
    ids=[
        "exchange", "flat", "flat, feedback", "litellm", "json text", "batch", "judged later", "batch, judged later", "bare",
    ],
)  # fmt: skip
def test_every_shape_gives_the_same_row(tmp_path, lines):
    result = imported(tmp_path, lines)
    assert values(result, "sft") == [ROW]
    assert left_out(result) == []
    assert (result.lines, result.joined, result.used) == (len(lines), len(lines) - 1, 1)


def test_what_is_logged_about_an_answer_is_kept(tmp_path):
    lines = [
        {
            "id": "r1",
            "request": REQUEST,
            "response": RESPONSE,
            "feedback": {"rating": "up", "by": {"user": 7}, "created": "2026-01-02"},
        }
    ]
    about = imported(tmp_path, lines).made[0].entries[0].about
    assert about == {
        "id": "r1",
        "model": "served-1",
        "fingerprint": "fp_1",
        "created": "2026-01-02",
        "rating": "up",
        "judged": f"{tmp_path}/log.jsonl:1",
        "by": '{"user": 7}',
    }


def test_a_later_judgement_is_known_by_its_own_line(tmp_path):
    lines = [{"id": "a", "request": REQUEST, "response": RESPONSE}, {"id": "a", "rating": "up"}]
    entry = imported(tmp_path, lines).made[0].entries[0]
    assert (entry.where, entry.about["judged"]) == (f"{tmp_path}/log.jsonl:1", f"{tmp_path}/log.jsonl:2")


def test_reasoning_of_two_names_is_one(tmp_path):
    for name in ("reasoning", "reasoning_content"):
        answer = {"role": "assistant", "content": "4", name: "2 and 2"}
        assert values(imported(tmp_path, [line([user("q")], [answer], {"rating": "up"})]), "sft") == [
            {"messages": [user("q"), {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}]}
        ]


def test_files_globs_and_packed_files(tmp_path):
    """A file that two names mean is read once; a packed one is hashed as it lies there."""
    first = write(tmp_path, [said(rating="up")], "a.jsonl")
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress((json.dumps(said("3+3?", "6", rating="up")) + "\n").encode()))
    result = import_logs([first, str(tmp_path / "*.jsonl*")], Settings())
    assert [(file.name, file.lines) for file in result.log.files] == [(first, 1), (str(packed), 1)]
    assert len(values(result, "sft")) == 2


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"request": REQUEST, "response": {"error": {"message": "busy"}}, "rating": "up"}, "failed", "error"),
        ({"custom_id": "a", "response": {"status_code": 429, "body": {}}}, "failed", "status 429"),
        ({"custom_id": "a", "response": None, "error": {"code": "expired"}}, "failed", "error"),
        ({"request": {"input": "hello"}, "response": RESPONSE, "rating": "up"}, "not_chat", "the request has `input`"),
        ({"request": {"prompt": "hello"}, "response": RESPONSE, "rating": "up"}, "not_chat", "the request has `prompt`"),
        ({"response": RESPONSE, "rating": "up"}, "no_request", ""),
        ({"id": "gone", "rating": "up"}, "no_response", "no response has its id"),
        ({"feedback": {"rating": "up"}}, "no_response", "no id"),
        ({"custom_id": "x", "body": REQUEST}, "no_response", "no response has its id"),
        (line([user("q")], ["a", "b"], {"rating": "up"}), "which_choice", "there are 2 answers; feedback.choice is missing"),
        (line([user("q")], [""], {"rating": "up"}), "no_answer", "it is empty"),
        (judged([user("q")], {"role": "assistant", "content": None, "refusal": "No."}), "no_answer", "a refusal of the server"),
        (judged([user("q"), user("r")], "a"), "untrainable", "messages[1]: user follows user; assistant is needed"),
        (judged([{"role": "user", "content": [{"type": "image_url"}]}], "a"), "untrainable",
         "messages[0].content[0]: only parts of text can be trained on, got {'type': 'image_url'}"),
        (line([user("q")], ["a"], {"correction": {"content": [{"type": "image_url"}]}}), "untrainable",
         "feedback.correction[0].content[0]: only parts of text can be trained on, got {'type': 'image_url'}"),
        (judged([user("q")], {"role": "assistant", "content": "a", "function_call": {"name": "f"}}), "untrainable",
         "answer[0].function_call: not a key of a message"),
    ],
)  # fmt: skip
def test_log_lines_that_give_nothing_are_left_out_with_a_reason(tmp_path, row, reason, detail):
    result = imported(tmp_path, [said("other?", rating="up"), row])
    assert [(item.where.rpartition(":")[2], item.reason) for item in result.left_out] == [("2", reason)]
    assert result.left_out[0].detail.startswith(detail)
    assert bool(result.left_out[0].detail) == bool(detail)


STREAM = "a piece of a streamed response (chat.completion.chunk); log the whole response, put together, in one line"
CHUNK = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "4"}}]}
# A line, and what is said of it behind `file:2`.
HOSTILE = [
    ('{"messages": [', ":15: Expecting value"),
    ('{"rating": 1, "rating": 5}', ": key given twice: 'rating'"),
    ('{"rating": NaN}', ": NaN is not JSON"),
    ('{"rating": 1e999}', ": 1e999 is beyond the range of a number"),
    ('{"messages": "\\ud800"}', ": a lone surrogate (\\ud800 to \\udfff) is not text"),
    ("[" * 100_000, ": nested too deeply"),
    ("[1, 2]", ": an object is needed, got list"),
    ("data: {}", f": {STREAM}"),
    (CHUNK, f": {STREAM}"),
    ({"request": REQUEST, "response": [CHUNK]}, f": response: {STREAM}"),
    ({"request": REQUEST, "response": CHUNK}, f": response: {STREAM}"),
    ({"request": REQUEST, "response": 'data: {"choices": []}'}, f": response: {STREAM}"),
    ({"requests": REQUEST},
     ": no log line: the keys are requests; needed are request and response, or messages; did you mean 'request'?"),
    ({}, ": no log line: the keys are none; needed are request and response, or messages"),
    ({"request": 7, "response": RESPONSE}, ": request: an object is needed, got 7"),
    ({"request": "{", "response": RESPONSE},
     ": request: not JSON: Expecting property name enclosed in double quotes (column 2)"),
    ({"request": {}, "response": RESPONSE}, ": request.messages: is missing"),
    ({"request": {"messages": "hi"}, "response": RESPONSE}, ": request.messages: a list of messages is needed, got 'hi'"),
    ({"messages": {}, "rating": "up"}, ": messages: a list of messages is needed, got {}"),
    ({"messages": [user("hi")], "rating": "up"},
     ": messages: the last must be the assistant's, the answer that was judged; got 'user'"),
    ({"request": REQUEST, "response": {"choices": []}}, ": response.choices: a list of answers is needed, got []"),
    ({"request": REQUEST, "response": {"choices": [{"text": "4"}]}},
     ": response.choices[0].message: an object is needed, got {'text': '4'}"),
    ({"request": REQUEST, "response": {"choices": [{"index": "a", "message": {}}]}},
     ": response.choices[0].index: a number of its own is needed, got 'a'"),
    ({"request": REQUEST, "response": RESPONSE, "feedback": "up"},
     ": feedback: an object with rating or correction is needed, got 'up'"),
    ({"request": REQUEST, "response": RESPONSE, "feedback": {"ratting": 5}},
     ": feedback.ratting: neither rating nor correction; did you mean 'rating'?"),
    ({"request": REQUEST, "response": RESPONSE, "feedback": {"rating": {"stars": 5}}},
     ": rating: {'stars': 5} is not a rating; say what it means with --good or --bad"),
    ({"request": REQUEST, "response": RESPONSE, "feedback": {"rating": "meh"}},
     ": rating: 'meh' is not a rating; say what it means with --good or --bad"),
    ({"request": REQUEST, "response": RESPONSE, "feedback": {"correction": 4}},
     ": feedback.correction: text or a message of the assistant is needed, got 4"),
    ({"request": REQUEST, "response": RESPONSE, "feedback": {"rating": "up", "choice": [0]}},
     ": feedback.choice: [0] is no index of an answer; there are 0"),
    ({"request": REQUEST, "response": RESPONSE, "feedback": {"rating": "up", "choice": 3}},
     ": feedback.choice: 3 is no index of an answer; there are 0"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), HOSTILE)
def test_lines_that_are_none_stop_the_import_or_are_left_out(tmp_path, bad, message):
    lines = [said("other?", rating="up"), bad, said("third?", rating="up")]
    with pytest.raises(DataError) as raised:
        imported(tmp_path, lines)
    assert raised.value.problems == [f"{tmp_path}/log.jsonl:2{message}"]
    result = imported(tmp_path, lines, broken="drop")
    assert left_out(result) == [(2, "malformed")]
    assert result.left_out[0].detail == f"{tmp_path}/log.jsonl:2{message}"
    assert (result.lines, result.used) == (3, 2)


def test_an_id_that_two_responses_have_says_nothing(tmp_path):
    lines = [{"id": "a", "request": REQUEST, "response": RESPONSE | {"id": name}} for name in ("x", "y")]
    lines += [{"id": "a", "rating": "up"}, {"id": "x", "feedback": {"rating": "up", "choice": None}}]
    result = imported(tmp_path, lines)
    assert left_out(result) == [(2, "unrated"), (3, "which_choice")]
    assert [item.detail for item in result.left_out if item.reason == "which_choice"] == ["2 responses have its id"]
    assert result.made[0].entries[0].where == f"{tmp_path}/log.jsonl:1"


def test_a_scale_that_cant_be_told_is_said_with_the_rest(tmp_path):
    with pytest.raises(DataError) as raised:
        imported(tmp_path, [said(rating=1), "{"])
    assert raised.value.problems[0].startswith(f"{tmp_path}/log.jsonl:2:2: Expecting property name")
    assert raised.value.problems[1].startswith("ratings: the numbers in the logs (1) may be of several scales")


def test_all_mistakes_come_at_once(tmp_path):
    with pytest.raises(DataError) as raised:
        imported(tmp_path, ["{", {"request": REQUEST, "response": RESPONSE, "rating": "meh"}, *["nonsense"] * 60])
    assert len(raised.value.problems) == 51
    assert raised.value.problems[-1] == "... and 12 more problems"


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "LONGEST", 1000)
    with pytest.raises(DataError) as raised:
        imported(tmp_path, [said(rating="up"), "x" * 2000])
    assert raised.value.problems == [f"{tmp_path}/log.jsonl:2: a line of 2,000 characters; at most 1,000 are read"]


def test_files_that_are_no_logs(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.jsonl").write_text("\n \n")
    (tmp_path / "binary.jsonl").write_bytes(b"PK\x03\x04\x00\x00")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"rating": 1}\n' * 99)[:-9])
    names = ["empty.jsonl", "blank.jsonl", "binary.jsonl", "cut.jsonl.gz", "blanc.jsonl", "*.log"]
    with pytest.raises(DataError) as raised:
        import_logs([str(tmp_path / name) for name in names], Settings())
    assert raised.value.problems == [
        f"{tmp_path}/blanc.jsonl: no such file or folder; did you mean 'blank.jsonl'?",
        f"{tmp_path}/*.log: matches no file",
        f"{tmp_path}/empty.jsonl: holds no rows",
        f"{tmp_path}/blank.jsonl: holds no rows",
        f"{tmp_path}/binary.jsonl: holds binary data, not JSON Lines in UTF-8",
        f"{tmp_path}/cut.jsonl.gz: can't be read: the .gz file is damaged or cut off: "
        "Compressed file ended before the end-of-stream marker was reached",
    ]


def test_bytes_that_are_no_text_are_named_by_place(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_bytes(json.dumps(said(rating="up")).encode() + b'\n{"messages": "\xff"}\n')
    with pytest.raises(DataError) as raised:
        import_logs([str(file)], Settings())
    assert raised.value.problems == [f"{file}:2:15: not UTF-8 (byte 0xff)"]
