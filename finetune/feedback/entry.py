"""One judged answer: the prompt and the answer as messages that can be trained on, and what was said of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from finetune.data.conversation import brief, read_messages, read_tools
from finetune.data.rows import Message
from finetune.data.toolschema import message_text
from finetune.feedback.answer import argument_problems, clean, given_answer, order_problems, read_correction
from finetune.feedback.exchange import Exchange, Judgement
from finetune.feedback.log import LeftOut
from finetune.feedback.rating import Verdict


@dataclass(frozen=True)
class Entry:
    """One judgement of one answer.

    Attributes:
        prompt: what was asked; earlier answers in it say `train: false`.
        answer: None where the answer is not to be used; `without` says why, as a reason for leaving out.
        correction: the better answer that somebody wrote.
        verdict: of the rating.
        about: as logged: id, model, fingerprint, created, rating, by; `judged` is the `file:line` of the judgement.
        redacted: what was replaced in it, by kind.
    """

    file: str
    line: int
    choice: int
    prompt: tuple[Message, ...]
    answer: Message | None
    tools: tuple[dict[str, Any], ...]
    correction: Message | None
    about: dict[str, Any]
    without: tuple[str, str] = ("", "")
    verdict: Verdict = ""
    redacted: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def left_out(self, reason: str, detail: str = "") -> LeftOut:
        return LeftOut(self.where, reason, detail, self.choice)


def entries_of(exchange: Exchange, left_out: list[LeftOut], problems: list[str]) -> list[Entry]:
    """The judged answers on a line; answers that give nothing go to `left_out`, what is no log line to the problems."""
    where = exchange.row.where
    if exchange.failed:
        left_out.append(LeftOut(where, "failed", exchange.failed))
        return []
    if exchange.request is None:
        left_out.append(LeftOut(where, "no_request"))
        return []
    asked = exchange.request.get("messages")
    if asked is None:
        endpoint = next((key for key in ("input", "prompt") if key in exchange.request), None)
        if endpoint is None:
            problems.append("request.messages: is missing")
        else:
            left_out.append(LeftOut(where, "not_chat", f"the request has `{endpoint}`"))
        return []
    if not isinstance(asked, list) or not asked:
        problems.append(
            f"{'' if exchange.flat else 'request.'}messages: a list of messages is needed, got {brief(asked)}"
        )
        return []
    choices = _choices(exchange, asked, problems)
    judged = _judged(exchange, choices, left_out, problems)
    prompt = asked[:-1] if exchange.flat else asked
    found = []
    for choice, (message, finish) in choices.items():
        for feedback in judged.get(choice, ()):
            entry = _entry(exchange, prompt, (choice, message, finish), feedback, problems)
            if isinstance(entry, LeftOut):
                left_out.append(entry)
            elif entry is not None:
                found.append(entry)
    return found


def _choices(exchange: Exchange, asked: list[Any], problems: list[str]) -> dict[int, tuple[Any, Any]]:
    """Message and finish reason of each answer, by its index."""
    if exchange.flat:
        last = asked[-1]
        if not isinstance(last, dict) or last.get("role") != "assistant":
            role = last.get("role") if isinstance(last, dict) else last
            problems.append(
                f"messages: the last must be the assistant's, the answer that was judged; got {brief(role)}"
            )
            return {}
        return {0: (last, exchange.row.values.get("finish_reason"))}
    choices = (exchange.response or {}).get("choices")
    if not isinstance(choices, list) or not choices:
        problems.append(f"response.choices: a list of answers is needed, got {brief(choices)}")
        return {}
    found: dict[int, tuple[Any, Any]] = {}
    for number, item in enumerate(choices):
        at = f"response.choices[{number}]"
        index = item.get("index", number) if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(item.get("message"), dict):
            problems.append(f"{at}.message: an object is needed, got {brief(item)}")
        elif not isinstance(index, int) or isinstance(index, bool) or index in found:
            problems.append(f"{at}.index: a number of its own is needed, got {brief(index)}")
        else:
            found[index] = (item["message"], item.get("finish_reason"))
    return found


def _judged(
    exchange: Exchange, choices: dict[int, tuple[Any, Any]], left_out: list[LeftOut], problems: list[str]
) -> dict[int, list[Judgement]]:
    """The judgements of each answer."""
    where = exchange.row.where
    found: dict[int, list[Judgement]] = {}
    for item in exchange.feedback if choices else ():
        choice = item.values.get("choice")
        choice = next(iter(choices)) if choice is None and len(choices) == 1 else choice
        if choice is None:
            left_out.append(
                LeftOut(where, "which_choice", f"there are {len(choices)} answers; feedback.choice is missing")
            )
        elif not isinstance(choice, int) or isinstance(choice, bool) or choice not in choices:
            known = ", ".join(map(str, sorted(choices)))
            problems.append(f"feedback.choice: {brief(choice)} is no index of an answer; there are {known}")
        elif all(item.values.get(key) in (None, "") for key in ("rating", "correction")):
            left_out.append(LeftOut(where, "unrated", "", choice))
            found.setdefault(choice, [])
        else:
            found.setdefault(choice, []).append(item)
    vague = any(item.values.get("choice") is None for item in exchange.feedback) and len(choices) > 1
    left_out += [LeftOut(where, "unrated", "", choice) for choice in choices if choice not in found and not vague]
    return found


def _entry(
    exchange: Exchange, asked: list[Any], answer: tuple[int, Any, Any], judgement: Judgement, problems: list[str]
) -> Entry | LeftOut | None:
    """None where the problems have grown."""
    choice, message, finish = answer
    row, request = exchange.row, exchange.request or {}
    before = len(problems)
    wrong: list[str] = []
    correction = read_correction(judgement.values.get("correction"), problems, wrong)
    if len(problems) > before:
        return None
    tools = read_tools(request.get("tools"), "tools", wrong)
    prompt = read_messages([clean(item) for item in asked], "messages", wrong)
    given, without = given_answer(message, finish, prompt, tools)
    if correction and prompt:
        wrong += order_problems(prompt, correction, tools) or argument_problems(correction, tools)
    if not correction and not given and not wrong:
        return LeftOut(row.where, *without, choice)
    if wrong:
        return LeftOut(row.where, "untrainable", wrong[0], choice)
    prompt = [item | {"train": False} if item["role"] == "assistant" else item for item in prompt]
    about = _about(exchange, judgement)
    return Entry(row.file, row.line, choice, tuple(prompt), given, tools, correction, about, without)


def _about(exchange: Exchange, judgement: Judgement) -> dict[str, Any]:
    """What the log says of the exchange; who rated as logged, to be numbered later."""
    feedback = judgement.values
    values, request, response = exchange.row.values, exchange.request or {}, exchange.response or {}
    by = next((feedback[key] for key in ("by", "user", "user_id") if feedback.get(key) is not None), None)
    created = next(
        (item for item in (feedback.get("created"), values.get("created"), response.get("created")) if item), None
    )
    return {
        "id": exchange.ids[0] if exchange.ids else None,
        "model": _text(response.get("model") or request.get("model")),
        "fingerprint": _text(response.get("system_fingerprint")),
        "created": created if isinstance(created, int | float | str) else None,
        "rating": feedback.get("rating") if feedback.get("rating") != "" else None,
        "judged": judgement.where,
        "by": None if by is None else json.dumps(by, ensure_ascii=False, sort_keys=True),
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def answer_key(message: Message | None) -> str:
    """What an answer says, white space around it apart; ids of calls are no part of it. Empty for none.

    Case and layout count: `5 mW` is not `5 MW`, and a form filled in on one line is another one.
    """
    return message_text(message).strip() if message else ""


def prompt_key(entry: Entry) -> bytes:
    """The same for the same prompt and tools."""
    text = json.dumps([entry.prompt, entry.tools], ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
