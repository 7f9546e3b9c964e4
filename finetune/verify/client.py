"""A small client of OpenAI-compatible servers, and of what each engine shows beyond: the token ids of a prompt.

Sources: vLLM 0.32 (entrypoints/serve/tokenize, /openai), llama.cpp tools/server/README.md, SGLang
entrypoints/openai/serving_tokenize.py, docs.ollama.com/api/openai-compatibility, transformers 5.23 cli/serving.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.rows import Message
from finetune.errors import RecipeError, did_you_mean
from finetune.verify.wire import Parts, Reply, ServerError, read, refusal, reply, wire

OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "library": "ollama"}  # `owned_by` in /v1/models


@dataclass(frozen=True)
class Card:
    """A line of /v1/models. `root`: what was loaded, `parent`: the base of an adapter (vLLM, SGLang)."""

    name: str
    root: str | None
    parent: str | None
    owner: str


class Server:
    """One model of one server.

    Args:
        url: with or without `/v1` at the end.
        model: its name at the server; None: the only one listed.
        key: sent as a bearer token.
        timeout: seconds without a byte.
        logprobs: whether to ask for log-probabilities.

    Raises:
        RecipeError: no server there, the key refused, no such model.
    """

    def __init__(self, url: str, model: str | None, key: str | None, timeout: float, logprobs: bool) -> None:
        import httpx2

        self.root = url.rstrip("/").removesuffix("/v1")
        self.where = f"{self.root}/v1"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
            # A connection of its own for each request: llama-server closes kept ones while they are used again.
            limits=httpx2.Limits(max_keepalive_connections=0),
        )
        self._timeout = timeout
        self._errors = (httpx2.HTTPError, httpx2.InvalidURL)
        self._logprobs = logprobs
        self._view: str | None = None  # which of `_VIEWS` shows the ids of a conversation; "" when none does
        self._takes_ids = True
        self.cards = self._list(model)
        self.model = self._choose(model)
        self.engine = next((OWNERS[card.owner] for card in self.cards if card.owner in OWNERS), "unknown engine")

    def ask(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], max_tokens: int) -> Reply:
        """The greedy answer, streamed. Raises ServerError."""
        body = {"messages": wire(messages), **({"tools": list(tools)} if tools else {})}
        return self._stream("/v1/chat/completions", body, max_tokens)

    def ask_whole(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], max_tokens: int) -> Reply:
        """The greedy answer in one piece, as clients that do not stream see it. Raises ServerError."""
        body = {"messages": wire(messages), **({"tools": list(tools)} if tools else {})}
        started = time.perf_counter()
        answer = self._post("/v1/chat/completions", self._request(body, max_tokens))
        return reply(read(answer, Parts(), 0.0), time.perf_counter() - started)

    def ask_ids(self, ids: Sequence[int], max_tokens: int) -> Reply | None:
        """The greedy answer to these prompt ids; None when the server takes text only."""
        if not self._takes_ids:
            return None
        body = {"model": self.model, "prompt": list(ids), "max_tokens": max_tokens, "temperature": 0}
        try:
            parts = read(self._post("/v1/completions", body), Parts(), 0.0)
        except ServerError:
            self._takes_ids = False
            return None
        if parts.usage.get("prompt_tokens") not in (None, len(ids)):  # the ids were read as text
            self._takes_ids = False
            return None
        return reply(parts, 0.0)

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> tuple[int, ...] | None:
        """The token ids of a conversation with the opening of the answer; None when the server does not show them."""
        views = {"llama.cpp": self._rendered, "tokenize": self._tokenized}
        for name in views if self._view is None else [self._view]:
            ids = views[name](messages, tools) if name else None
            if ids:
                self._view = name
                return ids
        self._view = self._view or ""
        return None

    def text_ids(self, text: str) -> tuple[int, ...] | None:
        """The token ids of a text alone, without special tokens around it; None when the server does not show them."""
        if self._view == "llama.cpp":
            body: dict[str, Any] = {"content": text, "add_special": False, "parse_special": True}
        elif self._view == "tokenize":
            body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        else:
            return None
        return self._ids(body)

    def relatives(self) -> list[str]:
        """Other names at this server that may be the base of this model."""
        parent = next((card.parent for card in self.cards if card.name == self.model), None)
        return [card.name for card in self.cards if card.name != self.model and card.name == parent]

    def close(self) -> None:
        self._http.close()

    def _rendered(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> tuple[int, ...] | None:
        """llama-server renders in one place and tokenises in another."""
        body = {"messages": wire(messages), **({"tools": list(tools)} if tools else {})}
        try:
            prompt = self._post("/apply-template", body).get("prompt")
        except ServerError:
            return None
        return self._ids({"content": prompt, "add_special": True, "parse_special": True}) if prompt else None

    def _tokenized(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> tuple[int, ...] | None:
        """vLLM, and SGLang since it takes `messages` there."""
        body = {"model": self.model, "messages": wire(messages), "add_generation_prompt": True}
        return self._ids(body | ({"tools": list(tools)} if tools else {}))

    def _ids(self, body: dict[str, Any]) -> tuple[int, ...] | None:
        try:
            tokens = self._post("/tokenize", body).get("tokens")
        except ServerError:
            return None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            return None
        return tuple(tokens)

    def _request(self, body: dict[str, Any], max_tokens: int) -> dict[str, Any]:
        # Nothing beside temperature is said about sampling: what a server adds by itself, its clients get as well.
        asked = {"model": self.model, "temperature": 0, "max_tokens": max_tokens}
        return body | asked | ({"logprobs": True} if self._logprobs else {})

    def _stream(self, path: str, body: dict[str, Any], max_tokens: int) -> Reply:
        request = self._request(body, max_tokens) | {"stream": True, "stream_options": {"include_usage": True}}
        parts, started = Parts(), time.perf_counter()
        try:
            with self._http.stream("POST", self.root + path, json=request) as response:
                if response.status_code >= 400:
                    response.read()
                    raise ServerError(refusal(response))
                streams = "event-stream" in response.headers.get("content-type", "")
                for line in response.iter_lines() if streams else [f"data:{response.read().decode()}"]:
                    data = line.removeprefix("data:").strip()
                    if line.startswith("data:") and data and data != "[DONE]":
                        read(json.loads(data), parts, time.perf_counter() - started)
        except (*self._errors, ValueError) as error:
            raise ServerError(self._why(error)) from None
        return reply(parts, time.perf_counter() - started)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            response = self._http.post(self.root + path, json=body)
            if response.status_code >= 400:
                raise ServerError(refusal(response))
            answer = response.json()
        except (*self._errors, ValueError) as error:
            raise ServerError(self._why(error)) from None
        if not isinstance(answer, dict):
            raise ServerError(f"{path}: not a JSON object")
        return answer

    def _why(self, error: Exception) -> str:
        import httpx2

        if isinstance(error, httpx2.TimeoutException):
            return f"no answer in {self._timeout:g} s"
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

    def _list(self, model: str | None) -> list[Card]:
        """/v1/models. A server that can't list (transformers serve with an empty cache) passes when a name is given."""
        import httpx2

        try:
            response = self._http.get(f"{self.where}/models")
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL):
            raise RecipeError(f"{self.root}: not a URL; http://host:port/v1 is needed") from None
        except self._errors as error:
            raise RecipeError(f"{self.where}: no server answers there: {self._why(error)}") from None
        if response.status_code in (401, 403):
            raise RecipeError(f"{self.where}: HTTP {response.status_code}: it wants a key; give --api-key-file FILE")
        try:
            listed = response.json()["data"] or []
            return [Card(c["id"], c.get("root"), c.get("parent"), str(c.get("owned_by"))) for c in listed]
        except (ValueError, LookupError, TypeError):
            if model is not None:
                return []
            raise RecipeError(
                f"{self.where}/models: HTTP {response.status_code}, no list of models; is it an OpenAI-compatible "
                "server? If so, name the model with --model"
            ) from None

    def _choose(self, model: str | None) -> str:
        names = [card.name for card in self.cards]
        if model is None:
            if len(names) != 1:
                raise RecipeError(f"--model: {self.where} serves {', '.join(names) or 'no model'}; name one of them")
            return names[0]
        if names and model not in names and f"{model}:latest" not in names:
            try:  # a server may take names that it does not list
                self._post("/v1/chat/completions", {
                    "model": model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1,
                })  # fmt: skip
            except ServerError as error:
                hint = did_you_mean(model, names, "served")
                raise RecipeError(f"--model: {model!r} is not served at {self.where} ({error}){hint}") from None
        return model
