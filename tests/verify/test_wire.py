"""What goes over the wire and comes back: recorded answers of vLLM, Ollama's documented ones, tool calls, thoughts."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from finetune.errors import RecipeError
from finetune.verify.check import Limits
from finetune.verify.checks import judge
from finetune.verify.client import Server
from finetune.verify.evidence import Evidence, Heard, said
from finetune.verify.golden import FACTS, read_facts
from finetune.verify.wire import Parts, Reply, ServerError, read, reply, wire
from tests.conftest import ROOT

# docs.ollama.com/api/openai-compatibility and ollama's openai/openai.go: no ids anywhere, `reasoning` for thoughts,
# `owned_by` library, text prompts only.
OLLAMA = {
    "GET /v1/models": {
        "object": "list",
        "data": [{"id": "tuned:latest", "object": "model", "created": 1795320214, "owned_by": "library"}],
    },
    "POST /v1/chat/completions": {
        "id": "chatcmpl-730", "object": "chat.completion", "created": 1795320214, "model": "tuned:latest",
        "system_fingerprint": "fp_ollama",
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": "Hello", "reasoning": "Say it."},
            "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 73, "completion_tokens": 78, "total_tokens": 151},
    },
}  # fmt: skip


@contextmanager
def replaying(answers):
    """A server that gives recorded answers: by path, and by a word of the body where there are several."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.answer(f"GET {self.path}", "")

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked.append((self.path, json.loads(body)))
            self.answer(f"POST {self.path}", body)

        def answer(self, key, body):
            keys = [f"{key} {word}" for word in ("nope", "messages", "prompt") if f'"{word}"' in body]
            found = next(
                (answers[k] for k in [*keys, key] if k in answers), {"status": 404, "body": "404 page not found"}
            )
            if "body" not in found:
                found = {"status": 200, "type": "application/json", "body": json.dumps(found)}
            text = found["body"].encode()
            self.send_response(found["status"])
            self.send_header("Content-Type", found.get("type") or "text/plain")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_recorded_vllm():
    """vLLM 0.32: ids of a conversation and of a text, streamed log-probabilities, usage in a last chunk, 404 with names."""
    recorded = json.loads((ROOT / "tests/verify/recorded/vllm.json").read_text())["answers"]
    question = [{"role": "user", "content": "What is 2 + 2?"}]
    with replaying(recorded) as (url, asked):
        server = Server(url, None, None, 5, True)
        assert (server.model, server.engine, server.relatives()) == ("smollm2", "vllm", [])
        ids = server.prompt_ids(question, ())
        assert ids is not None
        assert (len(ids), ids[:4], ids[-4:]) == (38, (1, 9690, 198, 2683), (1, 520, 9531, 198))
        assert server.text_ids("a  1") == (81, 256, 33)
        got = server.ask(question, (), 6)
        assert (got.text, got.reason, got.prompt_tokens, got.tokens) == (
            "The answer to this classic math",
            "length",
            38,
            6,
        )
        assert got.logprobs is not None
        assert [token for token, _ in got.logprobs] == ["The", " answer", " to", " this", " classic", " math"]
        assert got.logprobs[0][1] == pytest.approx(-1.9024635553359985)
        by_ids = server.ask_ids([1, 9690, 198], 4)
        assert by_ids == Reply("#python\n```", "length", 3, 4)
        assert server.ask_ids([1, 2], 4) is None  # three tokens counted of two sent: read as text
        with pytest.raises(RecipeError, match=r"'nope' is not served.*Valid aliases: smollm2\.\); served: smollm2"):
            Server(url, "nope", None, 5, True)
        server.close()
    chat = next(body for path, body in asked if path == "/v1/chat/completions")
    assert chat == {
        "messages": question, "model": "smollm2", "temperature": 0, "max_tokens": 6, "logprobs": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_documented_ollama():
    """No ids to be seen or sent, a name with a tag, an answer in one piece although a stream was asked for."""
    with replaying(OLLAMA) as (url, _):
        server = Server(url + "/v1/", "tuned", None, 5, False)
        assert server.engine == "ollama"
        got = server.ask([{"role": "user", "content": "hi"}], (), 6)
        assert (got.text, got.reason, got.prompt_tokens, got.tokens, got.parsed) == ("Hello", "stop", 73, 78, True)
        assert server.prompt_ids([{"role": "user", "content": "hi"}], ()) is None
        assert server.text_ids("hi") is None
        assert server.ask_ids([1, 2], 6) is None
        server.close()


def test_messages_as_clients_send_them():
    """Arguments as JSON text, ids for calls without one, nothing about training."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "é"}}}
    assert wire([{"role": "assistant", "content": "", "train": False, "tool_calls": [call]}]) == [
        {
            "role": "assistant", "content": "",
            "tool_calls": [{"id": "call00000", "type": "function", "function": {"name": "f", "arguments": '{"x": "é"}'}}],
        }
    ]  # fmt: skip


def test_pieces_of_an_answer():
    """An error inside a stream; a choice without text; the time of the first text, not of the first chunk."""
    parts = read({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, Parts(), 0.1)
    read({"choices": [{"delta": {"content": " a"}}]}, parts, 0.2)
    read({"choices": [{"delta": {"content": "b\n"}, "finish_reason": "stop"}]}, parts, 0.3)
    assert reply(parts, 0.4) == Reply("ab", "stop", first=0.2, seconds=0.4)
    with pytest.raises(ServerError, match="out of memory"):
        read({"error": {"message": "out of memory"}}, parts, 0.5)


def test_tool_calls_that_the_server_has_read():
    """In pieces or whole, as text or (Ollama) as an object: in canonical form, like the golden answer; never `parsed`."""
    parts = Parts()
    for piece in (
        {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}, {"index": 0, "function": {"arguments": "{\"x\":"}},
        {"index": 0, "function": {"arguments": " 1}"}}, {"index": 1, "function": {"name": "g", "arguments": "{}"}},
    ):  # fmt: skip
        read({"choices": [{"delta": {"tool_calls": [piece]}}]}, parts, 0.1)
    text = '[{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]'
    assert reply(parts, 0.4) == Reply(text, "", first=0.1, seconds=0.4)
    calls = [{"function": {"name": "f", "arguments": {"x": 1}}}, {"function": {"name": "g"}}]
    whole = read({"choices": [{"message": {"content": "I look.", "tool_calls": calls}}]}, Parts(), 0.1)
    assert reply(whole, 0.4) == Reply(f"I look.\n{text}", "", first=0.1, seconds=0.4)
    calls[0]["function"]["arguments"] = "{x"
    assert reply(read({"choices": [{"message": {"tool_calls": calls}}]}, Parts(), 0.1), 0.4).parsed


def test_tool_calls_that_the_server_leaves_as_text(made):
    """A server without a tool parser gives the model's own text: it is read here before it is compared."""
    golden = replace(made.goldens[0], tools=({"type": "function", "function": {"name": "f"}},))
    raw = Reply('<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>', "stop")
    assert said(raw, golden) == replace(raw, text='[{"name": "f", "arguments": {"x": 1}}]')
    assert said(raw, made.goldens[0]) is raw


def test_answers_that_the_server_takes_apart(made):
    """Tool calls or thoughts elsewhere: the answer to the prompt ids counts instead; without one nothing is judged."""
    facts = read_facts(made.tuned / FACTS)
    parsed = Reply("", "tool_calls", parsed=True)
    heard = [Heard(g, parsed, raw=Reply(g.answer, "stop"), ids=g.prompt_ids) for g in made.goldens]
    checks = {check.name: check for check in judge(Evidence(facts, heard), Limits(exact=1.0))}
    assert checks["answers"].status == checks["model"].status == checks["effect"].status == "pass"
    assert "8 of 8 to the letter" in checks["answers"].message
    blind = [replace(item, raw=None) for item in heard]
    checks = {check.name: check for check in judge(Evidence(facts, blind), Limits())}
    assert [checks[name].status for name in ("answers", "model", "stop")] == ["unknown"] * 3
    assert not any(check.status == "fail" for check in checks.values())
