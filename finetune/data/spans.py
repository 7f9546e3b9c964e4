"""Which characters of a rendered conversation are trained.

A trained turn runs from the end of what a server feeds the model (the messages before it, rendered with the generation
prompt) to the end of its stop token: the text, the thoughts, the tool calls and the markup between them, all of which
the model has to write itself. The conversation is rendered once more with private-use marks around every part of the
turn; the render without marks must be the plain render, and the parts must lie inside the turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.escape import CLOSE, unmarked
from finetune.data.render import ChatTemplate, TemplateRefusalError
from finetune.data.rows import Message
from finetune.errors import DataError

_MARKS = re.compile("[\U00100000-\U0010ffdf]")  # part k is wrapped in the characters 0x100000 + 2k and + 2k + 1


@dataclass(frozen=True)
class Rendered:
    """Text with the character ranges that are trained, each with the stop token it ends with ("" for none)."""

    text: str
    trained: tuple[tuple[int, int, str], ...]


class NotStableError(Exception):
    """A later message changes how an earlier turn is rendered, or a finished turn is not what the prompt opens."""


@dataclass(frozen=True)
class Turns:
    """A conversation ready to render: prepared and escaped messages, tools, positions of the trained turns."""

    messages: list[Message]
    tools: Sequence[Any]
    trained: tuple[int, ...]
    where: str


def trained_renders(template: ChatTemplate, turns: Turns) -> list[Rendered]:
    """The conversation with its trained ranges; one render a trained turn where the template is not prefix-stable.

    Raises:
        DataError: the template refuses the messages, changes or hides a part of a trained turn, ends it without a
            stop token, or opens the turn with a prompt that its finished form does not begin with.
    """
    try:
        try:
            return [_whole(template, turns)]
        except NotStableError:
            if turns.trained == (len(turns.messages) - 1,):
                raise
        alone = [Turns(turns.messages[: i + 1], turns.tools, (i,), turns.where) for i in turns.trained]
        return [_whole(template, one) for one in alone]
    except TemplateRefusalError as error:
        raise DataError(f"{turns.where}: the chat template refuses the conversation: {error}") from None
    except NotStableError as error:
        needed = (
            "give the answer its reasoning_content"
            if template.reasoning_key
            else "another chat template is needed, see docs/data_template.md"
        )
        raise DataError(
            f"{turns.where}: a server will see a prompt that ends in {unmarked(str(error))!r}, but the finished answer "
            f"is not rendered behind it; {needed}"
        ) from None


def _whole(template: ChatTemplate, turns: Turns) -> Rendered:
    text = template.render(turns.messages, turns.tools)
    starts = {i: _prompt_end(template, turns, i, text) for i in turns.trained}
    last = len(turns.messages) - 1
    if turns.trained == (last,):
        quick = _plain_answer(template, turns.messages[last], text, starts[last])
        if quick:
            return quick
    found = _positions(template, turns, text)
    ranges = []
    for i in turns.trained:
        opened, closed = found[i]
        begin = starts[i]
        start = opened if begin is None else begin
        if start > opened:
            raise NotStableError(text[:start][-30:])
        until, stop = _turn_end(template, turns, i, text, closed)
        if not text.startswith(until):
            if i != last or not until.startswith(text):
                raise NotStableError(until[-30:])
            text = until
        ranges.append((start, len(until), stop))
    return _apart(Rendered(text, tuple(ranges)))


def _apart(render: Rendered) -> Rendered:
    """A prompt that ends in a space (ERNIE 4.5: `Assistant: `) would grow together with every answer's first word.

    There the text is cut where the answer begins, so that the ids before it are the ids of the prompt alone, and the
    first word is trained. A server sees earlier answers uncut, so each trained turn needs a render of its own.
    """
    start, end, stop = render.trained[0]
    if all(left == 0 or render.text[left - 1] != " " for left, _, _ in render.trained):
        return render
    if len(render.trained) > 1:
        raise NotStableError(render.text[:start][-30:])
    return Rendered(render.text[:start] + CLOSE + render.text[start:], ((start + 1, end + 1, stop),))


def _prompt_end(template: ChatTemplate, turns: Turns, i: int, text: str) -> int | None:
    """Where turn `i` begins: the length of its prompt. None when nothing can be asked before it."""
    if i == 0:
        return None  # a conversation that begins with the assistant: no server renders an empty prompt
    try:
        prompt = template.render(turns.messages[:i], turns.tools, prompt=True)
    except TemplateRefusalError:
        return None
    if not text.startswith(prompt):
        raise NotStableError(prompt[-30:])
    return len(prompt)


def _plain_answer(template: ChatTemplate, message: Message, text: str, start: int | None) -> Rendered | None:
    """The quick way for a last turn of plain text: prompt + lead + text + closing is the whole render, exactly."""
    content, (lead, closing) = message.get("content"), template.around_answer
    stop, stop_end = _last_of_run(template, closing, len(closing) - len(closing.lstrip()))
    reasoning = template.reasoning_key is not None and message.get(template.reasoning_key)
    if start is None or not isinstance(content, str) or message.get("tool_calls") or reasoning or not stop:
        return None
    tail = text[start:]
    if not tail.startswith(lead) or not tail.endswith(closing) or len(tail) < len(lead) + len(closing):
        return None
    if tail[len(lead) : len(tail) - len(closing)] not in (content, content.strip()):
        return None
    return _apart(Rendered(text, ((start, len(text) - len(closing) + stop_end, stop),)))


def _last_of_run(template: ChatTemplate, text: str, start: int) -> tuple[str, int]:
    """The last of the control tokens that stand together from `start` on ("" for none), and where it ends."""
    stop, end = "", start
    while match := template.control.pattern.match(text, end):
        stop, end = match[0], match.end()
    return stop, end


def _turn_end(template: ChatTemplate, turns: Turns, i: int, text: str, closed: int) -> tuple[str, str]:
    """The render up to the end of turn `i`, as it reads when this turn is the last, and its stop token.

    The stop is the control token right after the turn's text, or after the markup that closes its tool calls; where
    several stand together (Command R) it is the last. A template that writes none (GLM-4) gets the one that would open
    the next message, since that is what its model stops at.
    """
    alone, calls = text, bool(turns.messages[i].get("tool_calls"))
    refused = False
    if i != len(turns.messages) - 1:
        try:
            alone = template.render(turns.messages[: i + 1], turns.tools)
        except TemplateRefusalError:
            refused = True  # the first control token that follows in the whole render must do
    if not alone.startswith(text[:closed]):
        raise NotStableError(text[:closed][-30:])
    match = (template.special if calls else template.control.pattern).search(alone, closed)
    if match and (calls or not alone[closed : match.start()].strip()):
        stop, end = (match[0], match.end()) if refused else _last_of_run(template, alone, match.start())
        return alone[:end], stop
    header = template.next_header(calls) if calls or not alone[closed:] else None
    if header is None:
        raise DataError(
            f"{turns.where}: the chat template ends the assistant's turn with no stop token after "
            f"{unmarked(text[:closed])[-40:]!r}"
        )
    return alone + header, header


@dataclass(frozen=True)
class _Part:
    """A string of a trained message: whose it is, what it is, and its text without outer white space."""

    message: int
    what: str
    core: str


def _positions(template: ChatTemplate, turns: Turns, text: str) -> dict[int, tuple[int, int]]:
    """First and last character of the parts of each trained message in the plain render."""
    parts: list[_Part] = []
    messages = list(turns.messages)
    for i in turns.trained:
        messages[i] = _marked(messages[i], i, parts, template)
    render = template.render(messages, turns.tools)
    changed = f"{turns.where}: the chat template changes the assistant's text, so it can't be marked for training"
    if _MARKS.sub("", render) != text:
        raise DataError(changed)
    seen: dict[int, tuple[int, int]] = {}  # part → first and last character
    for removed, match in enumerate(_MARKS.finditer(render)):
        k, position = (ord(match[0]) - 0x100000) // 2, match.start() - removed
        seen[k] = (seen[k][0] if k in seen else position, position)
    for k, part in enumerate(parts):
        if k in seen:
            if part.what != "tool call" and text[slice(*seen[k])] != part.core:
                raise DataError(changed)
        elif part.what == "reasoning" and part.message != len(messages) - 1:
            raise NotStableError("")
        else:
            turn = sum(message["role"] == "assistant" for message in messages[: part.message + 1])
            raise DataError(
                f"{turns.where}: the chat template does not show the {part.what} of assistant message {turn}"
            )
    spans: dict[int, tuple[int, int]] = {}
    for k, part in enumerate(parts):
        first, last = spans.get(part.message, seen[k])
        spans[part.message] = min(first, seen[k][0]), max(last, seen[k][1])
    return spans


def _marked(message: Message, i: int, parts: list[_Part], template: ChatTemplate) -> Message:
    """The message with marks around its text, its thoughts and each string of its tool calls."""

    def wrapped(text: str, what: str) -> str:  # the core only: templates trim white space
        core = text.strip()
        start = text.find(core)
        k = len(parts)
        parts.append(_Part(i, what, core))
        return f"{text[:start]}{chr(0x100000 + 2 * k)}{core}{chr(0x100001 + 2 * k)}{text[start + len(core) :]}"

    marked = dict(message)
    for key, what in ((template.reasoning_key, "reasoning"), ("content", "content")):
        value = message.get(key) if key else None
        text = value[0]["text"] if key == "content" and template.content_parts and value else value
        if key and isinstance(text, str) and text.strip():
            around = wrapped(text, what)
            marked[key] = [{"type": "text", "text": around}] if text is not value else around
    if message.get("tool_calls"):
        marked["tool_calls"] = [
            {**call, "function": _leaves(call["function"], lambda text: wrapped(text, "tool call"))}
            for call in message["tool_calls"]
        ]
    return marked


def _leaves(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value) if value.strip() else value
    if isinstance(value, dict):
        return {key: _leaves(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_leaves(item, change) for item in value]
    return value
