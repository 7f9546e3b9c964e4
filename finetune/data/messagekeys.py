"""The messages and tools of a data template file: their keys, what fits together, and the Jinja in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jinja2
from pydantic import Discriminator, Field, Tag, model_validator

from finetune.data.columns import Part
from finetune.data.conversation import read_tools
from finetune.data.native import expression_of, texts_in
from finetune.data.toolschema import schema_problem

Source = Annotated[str, Field(max_length=50_000)]  # Jinja
Place = tuple[str, ...]  # the keys that lead to something in the file


class CallTemplate(Part):
    """One call of a tool. Texts in it are Jinja; one that is `{{ expression }}` alone keeps the expression's type."""

    name: Source
    arguments: dict[str, Any] = Field(default_factory=dict)


def _form(value: Any) -> str:
    return "one-text" if isinstance(value, str) else "one-list"


# A list written down, or one `{{ expression }}` that gives it.
Calls = Annotated[
    Annotated[tuple[CallTemplate, ...], Field(strict=False, min_length=1), Tag("one-list")]
    | Annotated[Source, Tag("one-text")],
    Discriminator(_form),
]
Tools = Annotated[
    Annotated[tuple[dict[str, Any], ...], Field(strict=False, min_length=1), Tag("one-list")]
    | Annotated[Source, Tag("one-text")],
    Discriminator(_form),
]


class MessageTemplate(Part):
    """One message; `content` is Jinja over the columns. White space around the rendered text is cut off.

    `tool_calls` are those of an assistant message, whose content may then be left out; a message of role `tool` is the
    result of a call, in the order of the calls. `train: false` marks an assistant message that is context only (a
    worked example in the prompt). `rejected`, beside the answer, is a worse answer: the template is then for the stages
    that train on preferences. The role `text` makes a document for continued pre-training; it stands alone.
    """

    role: Literal["system", "user", "assistant", "tool", "text"]
    content: Source | None = None
    tool_calls: Calls | None = None
    rejected: Source | None = None
    train: bool = True

    @model_validator(mode="after")
    def keys_fit_the_role(self) -> MessageTemplate:
        if self.role != "assistant" and not self.train:
            raise ValueError("`train: false` is for assistant messages")
        if self.role != "assistant" and self.tool_calls is not None:
            raise ValueError(f"only the assistant calls tools, this is {self.role}")
        if self.content is None and self.tool_calls is None:
            raise ValueError("`content` is missing")
        return self


Messages = Annotated[tuple[MessageTemplate, ...], Field(strict=False, min_length=1)]


def answer_last(messages: tuple[MessageTemplate, ...] | None) -> tuple[MessageTemplate, ...] | None:
    if messages and any(message.role == "text" for message in messages):
        if len(messages) > 1:
            raise ValueError("a message with the role text stands alone")
        return messages
    if messages and (messages[-1].role != "assistant" or not messages[-1].train):
        raise ValueError("the last message must be the assistant's (the answer)")
    if any(message.rejected is not None for message in (messages or ())[:-1]):
        raise ValueError("`rejected` is for the last message (the answer)")
    return messages


def check_use_of_tools(messages: tuple[MessageTemplate, ...], tools: Any, metric: Any) -> None:
    """Raises ValueError: calls without tools, results without calls, an answer that the metric can't score."""
    calling = [message.tool_calls is not None for message in messages]
    if any(calling) and tools is None:
        raise ValueError("a message calls tools, but there are no `tools`")
    for index, message in enumerate(messages):
        if message.role == "tool" and not (index and (calling[index - 1] or messages[index - 1].role == "tool")):
            raise ValueError(f"message {index + 1} is a tool's, but no call stands before it")
    if calling[-1] and metric is not None and metric.name not in ("tool_calls", "exact_match"):
        raise ValueError(f"the answer calls tools, which metric {metric.name} can't score; tool_calls can")


def message_sources(at: Place, messages: tuple[MessageTemplate, ...]) -> Iterator[tuple[Place, str, bool]]:
    """Place and text of all Jinja in messages; whether it is an expression."""
    for i, message in enumerate(messages):
        place = (*at, str(i))
        for key in ("content", "rejected"):
            text = getattr(message, key)
            if text is not None:
                yield (*place, key), text, False
        if isinstance(message.tool_calls, str):
            yield from native_sources((*place, "tool_calls"), message.tool_calls)
            continue
        for k, call in enumerate(message.tool_calls or ()):
            yield from native_sources((*place, "tool_calls", str(k), "name"), call.name)
            yield from native_sources((*place, "tool_calls", str(k), "arguments"), call.arguments)


def native_sources(at: Place, value: Any) -> Iterator[tuple[Place, str, bool]]:
    """The same of a value that keeps its types; see native.py."""
    for keys, text in texts_in(value, at):
        try:
            expression = expression_of(text)
        except jinja2.TemplateSyntaxError:
            expression = None  # as a template it is said what is wrong
        yield keys, text if expression is None else expression, expression is not None


def tools_problems(at: Place, tools: Any) -> Iterator[tuple[Place, str]]:
    """What is wrong with tools that are written down: a function without a name, parameters that are no schema."""
    for index, tool in enumerate(tools or () if not isinstance(tools, str) else ()):
        problems: list[str] = []
        ready = read_tools([tool], "tools", problems)
        wrong = schema_problem(ready[0]) if ready else None
        problems += [f"parameters: {wrong}"] if wrong else []
        yield from (((*at, str(index)), problem.removeprefix("tools[0]: ")) for problem in problems)
