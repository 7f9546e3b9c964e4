"""Ollama's TEMPLATE (Go's text/template) derived from a chat template by asking it, and proven against it.

Ollama 0.30 and later runs a GGUF's own chat template where the Modelfile gives none, or where it can do more than the
one given; earlier ones guess a template by likeness (read in ollama's server/images.go, server/model.go). With a
TEMPLATE that renders the same text, all of them send the same prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

from finetune.errors import RecipeError

Messages = Sequence[Mapping[str, Any]]
Render = Callable[[Messages, bool], str]  # a conversation as the chat template writes it, with or without the prompt

ROLES = ("system", "user", "assistant")
OTHERWISE = (
    "serve the GGUF with llama-server (engine: llama.cpp), which runs the chat template itself, or with Ollama 0.30 or "
    "later started with OLLAMA_GO_TEMPLATE=0 and a Modelfile of your own"
)


@dataclass(frozen=True)
class GoTemplate:
    """A TEMPLATE and what it was held to.

    Attributes:
        text: what stands between the triple quotes.
        proven: how many prompts it wrote exactly as the chat template does.
        limits: what it writes otherwise than the chat template, each a line.
    """

    text: str
    proven: int
    limits: tuple[str, ...]


def ollama_template(tokenizer: Any, conversations: Iterable[Messages]) -> GoTemplate:
    """`go_template` of a tokenizer's chat template."""

    def render(messages: Messages, ask: bool) -> str:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)

    if not tokenizer.chat_template:
        raise RecipeError(f"ollama: the tokenizer has no chat template to make its TEMPLATE of; {OTHERWISE}")
    if "strftime_now" in (tokenizer.chat_template or ""):
        raise RecipeError(f"ollama: the chat template writes today's date, which a TEMPLATE can't; {OTHERWISE}")
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] if tokenizer.bos_token else False
    return go_template(render, tokenizer.bos_token if begins else None, conversations)


def go_template(render: Render, added: str | None, conversations: Iterable[Messages]) -> GoTemplate:
    """The TEMPLATE that writes every prompt as `render` does.

    Args:
        render: the chat template with the generation prompt; may raise on conversations that it refuses.
        added: the token that the engine puts before every prompt by itself; it must not stand in the TEMPLATE too.
        conversations: ending with an answer or with a user's turn; each prompt in them is compared.

    Raises:
        RecipeError: no TEMPLATE was found, with the first difference and what to do instead.
    """
    try:
        pieces = _pieces(render, added)
    except Exception as error:  # whatever a chat template raises
        raise _refusal(f"it does not take a plain conversation: {error}") from None
    text = _written(pieces)
    proven = 0
    for prompt in [*_probes(), *(prompt for messages in conversations for prompt in prompts(messages))]:
        try:
            wanted = render(prompt, True)
        except Exception:  # a role or an order that the chat template refuses
            continue
        got = (added or "") + execute(text, prompt)
        if got != wanted:
            raise _refusal(_difference(prompt, wanted, got))
        proven += 1
    return GoTemplate(text, proven, _limits(render, text, added, pieces))


def prompts(messages: Messages) -> list[Messages]:
    """What a server is sent in the course of a conversation, without what no TEMPLATE says: tools, turns run together.

    Ollama joins neighbouring messages of one role before any TEMPLATE sees them.
    """
    found = [messages[:i] for i, message in enumerate(messages) if message["role"] == "assistant" and i]
    if messages and messages[-1]["role"] != "assistant":
        found.append(messages)
    return [prompt for prompt in found if all(map(_plain, prompt)) and _alternates(prompt)]


def execute(text: str, messages: Messages) -> str:
    """What Go's text/template makes of `text` with Ollama's values; only what `_written` writes is known here."""
    parts = re.split(r"\{\{ (.*?) \}\}", text, flags=re.DOTALL)
    program = [("do" if number % 2 else "text", part) for number, part in enumerate(parts)]
    out: list[str] = []
    stack = [(True, True)]  # of each open if: whether it writes now, whether a branch of it was taken
    begin = next(i for i, item in enumerate(program) if item == ("do", "range .Messages"))
    end = max(i for i, item in enumerate(program) if item == ("do", "end"))
    for part, loop in ((program[:begin], [{}]), (program[begin + 1 : end], messages), (program[end + 1 :], [{}])):
        for message in loop:
            for kind, what in part:
                if kind == "text":
                    out.append(what if stack[-1][0] else "")
                else:
                    _step(what, message, messages, stack, out)
    assert len(stack) == 1
    return "".join(out)


def _step(
    action: str, message: Mapping[str, Any], messages: Messages, stack: list[tuple[bool, bool]], out: list[str]
) -> None:
    """One action: prints, or opens, switches or closes an `if`."""
    outer = stack[-2][0] if len(stack) > 1 else True
    if match := re.fullmatch(r'if (eq|ne) (\.Role|\(index \.Messages 0\)\.Role) "(\w+)"', action):
        role = message["role"] if match[2] == ".Role" else messages[0]["role"]
        true = (role == match[3]) == (match[1] == "eq")
        stack.append((stack[-1][0] and true, true))
    elif match := re.fullmatch(r'else if eq \.Role "(\w+)"', action):
        true = not stack[-1][1] and message["role"] == match[1]
        stack[-1] = (outer and true, stack[-1][1] or true)
    elif action == "end":
        stack.pop()
    elif action == ".Content":
        out.append(message["content"] if stack[-1][0] else "")
    elif action.startswith('"'):
        out.append(json.loads(action) if stack[-1][0] else "")
    else:
        raise AssertionError(action)


def _pieces(render: Render, added: str | None) -> dict[str, tuple[str, str]]:
    """Text before and after the content of each role; `""`: what begins a chat without a system turn, and its end.

    Found from the text between contents that stand for themselves.
    """
    one = _between(render([_m("user", "U1")], True), "U1")
    two = _between(render([_m("user", "U1"), _m("assistant", "A1"), _m("user", "U2")], True), "U1", "A1", "U2")
    try:
        three = _between(render([_m("system", "S1"), _m("user", "U1")], True), "S1", "U1")
    except Exception:  # refused, or not written where it stands: proven by the probes below, or named as a limit
        three = None
    closes = _between(render([_m("user", "U1")], False), "U1")[1]
    if not (one[1].startswith(closes) and two[1].startswith(closes)):
        closes = ""
    opens = _opening([one[0], two[2], *([three[1]] if three else [])], closes)
    bos = added or ""
    if not one[0].startswith(bos) or (three and not three[0].startswith(bos)):
        raise ValueError(f"it does not begin with {added!r}, which the tokenizer adds to every prompt")
    pieces = {
        "": (one[0][len(bos) : len(one[0]) - len(opens)], one[1][len(closes) :]),
        "user": (opens, closes),
        "assistant": (two[1][len(closes) :], two[2][: len(two[2]) - len(opens)]),
    }
    if three:
        pieces["system"] = (three[0][len(bos) :], three[1][: len(three[1]) - len(opens)])
    return pieces


def _opening(gaps: Sequence[str], closes: str) -> str:
    """What opens a user's turn: what all gaps before one end with, less the end of the turn before it."""
    shared = _begin(*(gap[::-1] for gap in gaps))[::-1]
    if closes and shared.startswith(closes):
        return shared[len(closes) :]
    token = re.search(r"[<\[]", shared)  # gaps may share the last letters of other control tokens
    return shared[token.start() :] if token else shared


def _begin(*texts: str) -> str:
    """What all texts begin with."""
    return "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*texts)))  # noqa: B905


def _between(text: str, *contents: str) -> list[str]:
    """What stands before, between and after contents that occur once and in this order."""
    for content in contents:
        if text.count(content) != 1:
            raise ValueError("a turn is left out, or written twice")
    parts = []
    for content in contents:
        before, found, text = text.partition(content)
        if not found:
            raise ValueError("turns are not written in their order")
        parts.append(before)
    return [*parts, text]


def _written(pieces: Mapping[str, tuple[str, str]]) -> str:
    first, last = pieces[""]
    out = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{_literal(first)}{{{{ end }}}}' if first else ""
    out += "{{ range .Messages }}"
    for number, role in enumerate(role for role in ROLES if role in pieces):
        before, after = pieces[role]
        out += f'{{{{ {"else if" if number else "if"} eq .Role "{role}" }}}}'
        out += f"{_literal(before)}{{{{ .Content }}}}{_literal(after)}"
    return out + "{{ end }}{{ end }}" + _literal(last)


def _literal(text: str) -> str:
    """Text as a Modelfile and Go read it as itself; what they would not is written as a Go string.

    Ollama's parser drops what Go's strconv.IsPrint does not print, and ends a value at triple quotes.
    """
    odd = '"""' in text or "{{" in text or text.startswith('"') or text.endswith(('"', "{"))
    if odd or not text.replace("\n", "").isprintable():
        if any(ord(letter) > 0xFFFF for letter in text):
            raise _refusal(f"{text!r} can't be written in a Modelfile")
        return f"{{{{ {json.dumps(text)} }}}}"
    return text


def _probes() -> list[Messages]:
    """Turns with what text can hold inside."""
    text = 'a  b\n\n\tc "d" {{e}} é日本 <f>'
    return [
        [_m("user", "U1")],
        [_m("user", text), _m("assistant", text), _m("user", "U2")],
        [_m("user", "U1"), _m("assistant", "A1"), _m("user", "U2"), _m("assistant", "A2"), _m("user", "U3")],
        [_m("system", "S1"), _m("user", "U1")],
        [_m("system", text), _m("user", "U1"), _m("assistant", "A1"), _m("user", "U2")],
    ]


def _limits(render: Render, text: str, added: str | None, pieces: Mapping[str, Any]) -> tuple[str, ...]:
    """Differences that no TEMPLATE can mend, found by asking."""
    found = ["neighbouring messages of one role are joined by Ollama; tools are not written by this TEMPLATE"]
    if "system" not in pieces:
        found.append("the chat template refuses a system message; here it would be left out in silence: send none")
    spaced = [_m("user", " U1 \n")]
    thoughts = [_m("user", "U1"), _m("assistant", "<think>\nT\n</think>\n\nA1"), _m("user", "U2")]
    odd = [_m("assistant", "A1"), _m("user", "U1"), _m("system", "S1"), _m("user", "U2")]
    for messages, line in (
        (odd[:2], "a conversation that begins with an answer is written otherwise"),
        (odd[1:], "a system message is right at the beginning only"),
        (spaced, "the chat template strips white space around a message; here it is sent as it is: strip it before"),
        (
            thoughts,
            "the chat template drops the thoughts of earlier answers; here they are sent as they are: drop them",
        ),
    ):
        try:
            same = render(messages, True) == (added or "") + execute(text, messages)
        except Exception:  # refused by the chat template
            continue
        if not same:
            found.append(line)
    return tuple(found)


def _difference(prompt: Messages, wanted: str, got: str) -> str:
    at = len(_begin(wanted, got))
    roles = ", ".join(message["role"] for message in prompt)
    return f"after {wanted[max(0, at - 20) : at]!r} it writes {wanted[at : at + 40]!r}, not {got[at : at + 40]!r} ({roles})"


def _refusal(reason: str) -> RecipeError:
    return RecipeError(f"ollama: the chat template can't be said as an Ollama TEMPLATE: {reason}; {OTHERWISE}")


def _plain(message: Mapping[str, Any]) -> bool:
    extra = {key for key, value in message.items() if value} - {"role", "content"}
    return message["role"] in ROLES and isinstance(message.get("content"), str) and not extra


def _alternates(prompt: Messages) -> bool:
    return all(one["role"] != two["role"] for one, two in pairwise(prompt))


def _m(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
