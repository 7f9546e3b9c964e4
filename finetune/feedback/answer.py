"""Answers and corrections as messages that can be trained on, or why they can't be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.data.conversation import KEYS, brief, check_arguments, check_order, read_messages
from finetune.data.duplicates import normalise
from finetune.data.rows import Message

ENDED = (None, "", "stop", "tool_calls", "function_call")  # finish_reason of an answer that the model ended itself


def given_answer(
    message: Any, finish: Any, prompt: list[Message], tools: Sequence[dict[str, Any]]
) -> tuple[Message | None, tuple[str, str]]:
    """The answer as it was given; where it is not to be used, None and the reason with its detail."""
    if finish not in ENDED:
        return None, ("unfinished", f"finish_reason {brief(finish)}")
    if message.get("refusal"):
        return None, ("no_answer", "a refusal of the server")
    cleaned = clean(message)
    content = cleaned.get("content", "")
    if isinstance(content, str) and not normalise(content) and not cleaned.get("tool_calls"):
        return None, ("no_answer", "it is empty")
    wrong: list[str] = []
    found = read_messages([cleaned | {"role": "assistant"}], "answer", wrong)
    wrong += order_problems(prompt, found[0], tools) if found and prompt else []
    return (None, ("untrainable", wrong[0])) if wrong else (found[0], ("", ""))


def order_problems(prompt: Sequence[Message], answer: Message, tools: Sequence[dict[str, Any]]) -> list[str]:
    """Why the prompt with this answer is no conversation; also of a worse answer."""
    wrong: list[str] = []
    check_order([*(item | {"train": False} for item in prompt), answer], "messages", wrong, tools)
    return wrong


def argument_problems(answer: Message, tools: Sequence[dict[str, Any]]) -> list[str]:
    """Calls that their tools' schemas don't allow; of an answer that is to be trained."""
    wrong: list[str] = []
    check_arguments([answer], "answer", wrong, tools)
    return wrong


def clean(message: Any) -> Any:
    """A message without what servers add to it (null keys, annotations, ids); vLLM's and OpenRouter's `reasoning` renamed.

    `function_call`, `audio` and `refusal` stay where they hold something: they are content that no template takes.
    """
    if not isinstance(message, dict):
        return message
    kept = {key: message[key] for key in KEYS if message.get(key) is not None and key not in ("train", "weight")}
    if "reasoning_content" not in kept and isinstance(message.get("reasoning"), str):
        kept["reasoning_content"] = message["reasoning"]
    if kept.get("content") == "" and kept.get("tool_calls"):
        del kept["content"]
    return kept | {key: message[key] for key in ("function_call", "audio", "refusal") if message.get(key)}


def read_correction(value: Any, problems: list[str], wrong: list[str]) -> Message | None:
    """Text or an assistant's message; null and blank text are none. A message that can't be trained on is `wrong`."""
    if value is None or (isinstance(value, str) and not normalise(value)):
        return None
    if isinstance(value, str):
        return {"role": "assistant", "content": value}
    if not isinstance(value, dict) or value.get("role", "assistant") != "assistant":
        problems.append(f"feedback.correction: text or a message of the assistant is needed, got {brief(value)}")
        return None
    found = read_messages([clean(value) | {"role": "assistant"}], "feedback.correction", wrong)
    return found[0] if found else None
