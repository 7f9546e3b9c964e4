"""Rows with a prompt and one or two answers: completions, preference pairs, labelled answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.data.conversation import brief, check_order, read_messages, read_text, read_tools
from finetune.data.rows import Message, Row, Sample


def _side(value: Any, at: str, role: str, problems: list[str]) -> list[Message]:
    """A prompt or an answer: text, or a list of messages."""
    if isinstance(value, list):
        return read_messages(value, at, problems)
    return [{"role": role, "content": read_text(value, at, problems)}]


def _continued(
    prompt: list[Message], answer: list[Message], at: str, problems: list[str], tools: Sequence[dict[str, Any]]
) -> None:
    """Checks the prompt and an answer to it as one conversation."""
    if prompt and answer:
        if answer[0]["role"] != "assistant":
            problems.append(f"{at}[0]: the assistant's message is needed, got {answer[0]['role']}")
        else:
            check_order([*prompt, *answer], f"prompt + {at}", problems, tools)


def read_prompt_completion(row: Row, problems: list[str]) -> Sample:
    """Only the completion is trained, whoever speaks in the prompt."""
    prompt, completion, tools = _prompt_and(row, "completion", problems)
    return Sample(row.values, (*_asked(prompt), *completion), row.where, tools)


def _asked(prompt: Sequence[Message]) -> list[Message]:
    """The prompt with nothing in it to train on."""
    return [{**message, "train": False} if message["role"] == "assistant" else message for message in prompt]


def _prompt_and(
    row: Row, column: str, problems: list[str]
) -> tuple[list[Message], list[Message], tuple[dict[str, Any], ...]]:
    tools = read_tools(row.values.get("tools"), "tools", problems)
    prompt = _side(row.values.get("prompt"), "prompt", "user", problems)
    answer = _side(row.values.get(column), column, "assistant", problems)
    _continued(prompt, answer, column, problems, tools)
    return prompt, answer, tools


def read_labelled(row: Row, problems: list[str]) -> Sample:
    """An answer that somebody found good (its mark is 1) or bad (0)."""
    prompt, completion, tools = _prompt_and(row, "completion", problems)
    label = row.values.get("label")
    label = {"true": True, "false": False}.get(label.strip().lower(), label) if isinstance(label, str) else label
    if not isinstance(label, bool):
        problems.append(f"label: true or false is needed, got {brief(label)}")
    return Sample(row.values, (*_asked(prompt), *completion), row.where, tools, marks=(float(bool(label)),))


def read_preference(row: Row, problems: list[str]) -> Sample:
    """Two answers to one prompt, the first better; each is one assistant message or a conversation's rest.

    Without a column `prompt`, what both conversations begin with is the prompt.
    """
    tools = read_tools(row.values.get("tools"), "tools", problems)
    chosen, rejected = (_side(row.values.get(c), c, "assistant", problems) for c in ("chosen", "rejected"))
    if row.values.get("prompt") is not None:
        prompt = _side(row.values["prompt"], "prompt", "user", problems)
    else:
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt and not problems:
            problems.append("prompt: is missing, and chosen and rejected begin with no message in common")
    if chosen == rejected and not problems:
        problems.append("rejected: is the same as chosen")
    for column, answer in (("chosen", chosen), ("rejected", rejected)):
        _continued(prompt, answer, column, problems, tools)
    asked = _asked(prompt)
    return Sample(row.values, (*asked, *chosen), row.where, tools, rejected=(*asked, *rejected))
