"""Questions and answers as they go over the wire: OpenAI's chat and text completions, whole or in pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.data.rows import Message
from finetune.data.toolschema import message_text


class ServerError(Exception):
    """One request that was not answered as asked: an HTTP status, no answer in time, not JSON."""


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        text: stripped, as the evaluation strips its answers; tool calls that the server has read in canonical form.
        reason: `finish_reason`; "" when the server gave none.
        prompt_tokens, tokens: what the server counted; None when it did not.
        logprobs: each token's text and natural log-probability; None when the server gives none.
        first, seconds: time to the first text and to the end, in seconds.
        parsed: the server took the text apart: thoughts, or what it took for tool calls, lie elsewhere.
    """

    text: str
    reason: str
    prompt_tokens: int | None = None
    tokens: int | None = None
    logprobs: tuple[tuple[str, float], ...] | None = None
    first: float = 0.0
    seconds: float = 0.0
    parsed: bool = False


@dataclass
class Parts:
    """What comes in piece by piece, and so needs putting together."""

    text: list[str] = field(default_factory=list)
    logprobs: list[tuple[str, float]] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    first: float | None = None
    parsed: bool = False


def wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as clients send them: arguments of tool calls as JSON text, no word about training."""
    wired = []
    for message in messages:
        sent = {key: value for key, value in message.items() if key not in ("train", "weight")}
        if sent.get("tool_calls"):
            sent["tool_calls"] = [_call(call, index) for index, call in enumerate(sent["tool_calls"])]
        wired.append(sent)
    return wired


def _call(call: dict[str, Any], index: int) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    name = function.get("name")
    return {
        "id": call.get("id", f"call{index:05d}"),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def read(piece: dict[str, Any], parts: Parts, now: float) -> Parts:
    """One chunk of a stream, or a whole answer of chat or completion, into the parts.

    Raises:
        ServerError: the piece is an error (servers send them inside of a stream that began with 200).
    """
    if piece.get("error"):
        raise ServerError(f"{piece['error']}"[:200])
    parts.usage |= piece.get("usage") or {}
    for choice in piece.get("choices") or []:
        message = choice.get("delta") or choice.get("message") or {}
        text = message.get("content") or choice.get("text") or ""
        parts.parsed |= any(message.get(key) for key in ("reasoning_content", "reasoning"))
        for place, call in enumerate(message.get("tool_calls") or []):
            _add_call(parts.calls.setdefault(call.get("index", place), {"name": "", "arguments": ""}), call)
        if (text or message.get("tool_calls")) and parts.first is None:
            parts.first = now
        parts.text.append(text)
        said = choice.get("logprobs") or {}
        parts.logprobs += [(item["token"], float(item["logprob"])) for item in said.get("content") or []]
        parts.reason = choice.get("finish_reason") or parts.reason
    return parts


def _add_call(call: dict[str, Any], piece: dict[str, Any]) -> None:
    """Name and arguments come in pieces of text; some servers give the arguments whole, as an object."""
    function = piece.get("function") or {}
    call["name"] += function.get("name") or ""
    arguments = function.get("arguments") or ""
    call["arguments"] = arguments if isinstance(arguments, dict) else call["arguments"] + arguments


def reply(parts: Parts, seconds: float) -> Reply:
    count = {name: parts.usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    calls = [
        {**parts.calls[place], "arguments": parts.calls[place]["arguments"] or {}} for place in sorted(parts.calls)
    ]
    said = message_text({"content": "".join(parts.text).strip(), "tool_calls": calls})
    broken = any(not isinstance(call["arguments"], dict) and not _is_object(call["arguments"]) for call in calls)
    return Reply(
        text=said,
        reason=parts.reason,
        prompt_tokens=count["prompt_tokens"] or None,
        tokens=count["completion_tokens"] or None,
        logprobs=tuple(parts.logprobs) or None,
        first=seconds if parts.first is None else parts.first,
        seconds=seconds,
        parsed=parts.parsed or broken,
    )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def refusal(response: Any) -> str:
    """`HTTP 404: what the server says`, in one line."""
    try:
        content = response.json()
        said = content.get("error", content) if isinstance(content, dict) else content
        said = said.get("message", said.get("detail", said)) if isinstance(said, dict) else said
    except ValueError:
        said = response.text
    return f"HTTP {response.status_code}: {' '.join(str(said).split())[:200]}"
