"""What passes between the parts of the data path: a row as read, and a sample ready to encode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune.data.toolschema import message_text

# {"role": system|user|assistant|tool, "content": str} and, where they apply, `reasoning_content`, `tool_calls`,
# `tool_call_id`, `name`, and `train` (false: this assistant turn is context only).
Message = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One record as read, not yet checked against anything."""

    values: dict[str, Any]
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Sample:
    """One conversation: the record it came from, its messages, where the row stands, and the tools on offer.

    Attributes:
        messages: of stage cpt, one message with the role `text`.
        task: the one of its data template's tasks that it was made for; empty where the template has one only.
        rejected: of a preference, the whole conversation with the worse answer in the better one's place; assistant
            turns before the answers say `train: false` in both.
        marks: what else the loss wants to know of the row, as numbers; their meaning is the stage's.
    """

    record: dict[str, Any]
    messages: tuple[Message, ...]
    where: str
    tools: tuple[dict[str, Any], ...] = ()
    task: str = ""
    rejected: tuple[Message, ...] = ()
    marks: tuple[float, ...] = ()

    @property
    def everything_said(self) -> tuple[Message, ...]:
        """The messages of both conversations, what they share twice."""
        return (*self.messages, *self.rejected)

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """What the last message says; tool calls as a JSON list on a line of their own."""
        return message_text(self.messages[-1])
