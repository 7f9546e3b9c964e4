"""A server that really answers: transformers generates, http.server speaks OpenAI's schema as several engines do.

Each field of `Habits` that is not the default breaks it in one way.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

PIECES = {"vllm": "vllm", "llama.cpp": "llamacpp", "counts": "library", "nothing": "somebody"}  # `owned_by`


@dataclass
class Habits:
    """How a server behaves.

    Attributes:
        models: name to folder; the first is what verify is to check.
        shows: `vllm` and `llama.cpp` show token ids each in their way, `counts` only `usage`, `nothing` neither.
        takes_ids: /v1/completions with a list of token ids.
        tokenizer, template: instead of the folder's own.
        change: what happens to the weights after loading.
        stops: ids that end an answer.
        cap: fewest tokens allowed, whatever is asked.
        together: the folder that answers when several ask at once.
    """

    models: dict[str, Path]
    shows: str = "vllm"
    takes_ids: bool = True
    streams: bool = True
    tokenizer: Any = None
    template: str | None = None
    change: Callable[[Any], None] | None = None
    stops: tuple[int, ...] = (257,)
    temperature: float = 0.0
    cap: int | None = None
    cut_at: str | None = None
    skip_special: bool = True
    delay: float = 0.0
    status: int = 200
    key: str | None = None
    parents: dict[str, str] = field(default_factory=dict)
    together: Path | None = None


def noise(model: Any, seed: int = 5) -> None:
    """A little of everything wrong with the weights, as a coarse quantisation has it."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * parameter.std() * torch.randn_like(parameter) if parameter.dim() > 1 else 0


class Engine:
    """Loaded models and what they said: equal questions of several tests are computed once (greedy only)."""

    def __init__(self) -> None:
        self._models: dict[tuple[Path, Any], Any] = {}
        self._said: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def model(self, folder: Path, change: Callable[[Any], None] | None) -> Any:
        from transformers import AutoModelForCausalLM

        if (folder, change) not in self._models:
            model = AutoModelForCausalLM.from_pretrained(folder).eval()
            if change:
                change(model)
            self._models[folder, change] = model
        return self._models[folder, change]

    @functools.cache  # noqa: B019  (an engine lives as long as the tests)
    def tokenizer(self, folder: Path) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def generate(self, folder: Path, habits: Habits, ids: list[int], limit: int) -> tuple[list[int], list[float]]:
        """Tokens with the stop token if it came, and the log-probability of each."""
        key = (folder, habits.change, habits.stops, tuple(ids), limit)
        with self._lock:
            if key in self._said and not habits.temperature:
                return self._said[key]
            options = (
                {"do_sample": True, "temperature": habits.temperature} if habits.temperature else {"do_sample": False}
            )
            prompt = torch.tensor([ids])
            out = self.model(folder, habits.change).generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=limit, eos_token_id=list(habits.stops) or -1,
                pad_token_id=257, return_dict_in_generate=True, output_logits=True, **options,
            )  # fmt: skip
            tokens = out.sequences[0, len(ids) :].tolist()
            said = tokens, [float(s[0].log_softmax(-1)[t]) for s, t in zip(out.logits, tokens, strict=True)]
            if not habits.temperature:
                self._said[key] = said
            return said


@contextmanager
def serving(engine: Engine, habits: Habits) -> Iterator[str]:
    """A running server; its address with /v1."""
    handler = type("Handler", (_Handler,), {"engine": engine, "habits": habits, "inside": threading.Semaphore(1)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine
    habits: Habits
    inside: threading.Semaphore

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        habits = self.habits
        if habits.key and self.headers.get("Authorization") != f"Bearer {habits.key}":
            self._send({"error": {"message": "no key"}}, 401)
            return
        if self.path != "/v1/models":
            self._send({"detail": "Not Found"}, 404)
            return
        cards = [
            {
                "id": n,
                "object": "model",
                "owned_by": PIECES[habits.shows],
                "root": str(f),
                "parent": habits.parents.get(n),
            }
            for n, f in habits.models.items()
        ]
        self._send({"object": "list", "data": cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        habits = self.habits
        routes = {"/v1/chat/completions": self._chat, "/v1/completions": self._completion}
        routes |= {"/tokenize": self._tokenize} if habits.shows in ("vllm", "llama.cpp") else {}
        routes |= {"/apply-template": self._apply} if habits.shows == "llama.cpp" else {}
        if self.path not in routes:
            self._send({"detail": "Not Found"}, 404)
            return
        if habits.status != 200 and self.path.startswith("/v1/"):
            self._send({"error": {"message": "CUDA out of memory"}}, habits.status)
            return
        if self.path.startswith("/v1/") and body["model"] not in habits.models:
            self._send({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client did not wait
            routes[self.path](body)

    def _tokenizer(self) -> Any:
        return self.habits.tokenizer or self.engine.tokenizer(next(iter(self.habits.models.values())))

    def _render(self, body: dict[str, Any]) -> str:
        return self._tokenizer().apply_chat_template(
            body["messages"], tools=body.get("tools"), tokenize=False, add_generation_prompt=True,
            chat_template=self.habits.template,
        )  # fmt: skip

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer()(text, add_special_tokens=False).input_ids

    def _apply(self, body: dict[str, Any]) -> None:
        self._send({"prompt": self._render(body)})

    def _tokenize(self, body: dict[str, Any]) -> None:
        if self.habits.shows == "llama.cpp":  # it knows no `messages` there, and says [] to what it does not know
            self._send({"tokens": self._encode(body.get("content", ""))})
            return
        tokens = self._encode(self._render(body) if "messages" in body else body["prompt"])
        self._send({"count": len(tokens), "max_model_len": 1024, "tokens": tokens})

    def _completion(self, body: dict[str, Any]) -> None:
        if not self.habits.takes_ids:
            self._send({"error": {"message": "prompt must be a string"}}, 400)
            return
        text, tokens, _, reason = self._answer(body, body["prompt"])
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
        self._send({"object": "text_completion", "choices": [choice]} | self._usage(len(body["prompt"]), len(tokens)))

    def _chat(self, body: dict[str, Any]) -> None:
        ids = self._encode(self._render(body))
        text, tokens, logprobs, reason = self._answer(body, ids)
        pieces = [self._tokenizer().decode([token]) for token in tokens]
        content = [{"token": t, "logprob": p, "bytes": None} for t, p in zip(pieces, logprobs, strict=True)]
        said = {"logprobs": {"content": content}} if body.get("logprobs") and self.habits.shows != "nothing" else {}
        usage = self._usage(len(ids), len(tokens))
        if not (body.get("stream") and self.habits.streams):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason} | said
            self._send({"object": "chat.completion", "choices": [choice]} | usage)
            return
        chunks = [{"delta": {"role": "assistant", "content": ""}}]
        chunks += [{"delta": {"content": piece}} for piece in text.splitlines(keepends=True)]
        chunks += [{"delta": {}, "finish_reason": reason} | said]
        self._begin("text/event-stream")
        for chunk in chunks:
            self._event({"object": "chat.completion.chunk", "choices": [{"index": 0} | chunk]})
        if usage:
            self._event({"object": "chat.completion.chunk", "choices": []} | usage)
        self.wfile.write(b"data: [DONE]\n\n")

    def _answer(self, body: dict[str, Any], ids: list[int]) -> tuple[str, list[int], list[float], str]:
        habits = self.habits
        time.sleep(habits.delay)
        folder = habits.models[body["model"]]
        alone = self.inside.acquire(blocking=False)
        try:
            if habits.together:
                time.sleep(0.05)
                folder = folder if alone else habits.together
            limit = min(body.get("max_tokens", 16), habits.cap or 10_000)
            tokens, logprobs = self.engine.generate(folder, habits, ids, limit)
        finally:
            if alone:
                self.inside.release()
        stopped = tokens[-1] in habits.stops
        text = self._tokenizer().decode(tokens, skip_special_tokens=habits.skip_special)
        if habits.cut_at and habits.cut_at in text:
            text, stopped = text.split(habits.cut_at)[0], True
        return text, tokens, logprobs, "stop" if stopped else "length"

    def _usage(self, prompt: int, answer: int) -> dict[str, Any]:
        usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        return {} if self.habits.shows == "nothing" else {"usage": usage}

    def _begin(self, kind: str, status: int = 200, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.close_connection = True

    def _event(self, content: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def _send(self, content: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(content).encode()
        self._begin("application/json", status, len(text))
        self.wfile.write(text)
