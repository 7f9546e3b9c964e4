"""Messages and tools of one record: a data template's Jinja compiled, rendered, and its calls held against the tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetune.data.conversation import read_calls, read_tools
from finetune.data.jinja import ENVIRONMENT, render
from finetune.data.limits import Limits
from finetune.data.messagekeys import MessageTemplate
from finetune.data.native import Native, compile_native
from finetune.data.rows import Message
from finetune.data.strictjson import strict_json
from finetune.data.templatefile import Task
from finetune.data.toolschema import call_problems, schema_problem
from finetune.errors import DataError


@dataclass(frozen=True)
class CompiledMessage:
    """A message with the Jinja of its text and of its calls."""

    part: MessageTemplate
    text: Native
    calls: Native | None

    @classmethod
    def of(cls, part: MessageTemplate) -> CompiledMessage:
        calls: Any = part.tool_calls
        if calls is not None and not isinstance(calls, str):
            calls = [{"name": call.name, "arguments": call.arguments} for call in calls]
        text = partial(render, ENVIRONMENT.from_string(part.content or ""))
        return cls(part, text, None if calls is None else compile_native(calls))


@dataclass(frozen=True)
class CompiledVariant:
    name: str
    when: Callable[..., Any] | None
    messages: list[CompiledMessage]
    rejected: Native | None


class CompiledTask:
    """A task with its Jinja compiled; messages without variants are its one variant."""

    def __init__(self, task: Task) -> None:
        self.name = task.name
        self.when = compiled_expression(task.when)
        written = task.tools is None or isinstance(task.tools, str)
        self.tools: Native | None = compile_native(task.tools) if isinstance(task.tools, str) else None
        self.fixed_tools = () if written else read_tools(list(task.tools or ()), "tools", [])
        forms = [(v.name, v.when, v.messages) for v in task.variants or ()] or [("", None, task.messages or ())]
        self.variants = {
            name: CompiledVariant(
                name,
                compiled_expression(when),
                [CompiledMessage.of(part) for part in messages],
                None
                if messages[-1].rejected is None
                else partial(render, ENVIRONMENT.from_string(messages[-1].rejected)),
            )
            for name, when, messages in forms
        }


def compiled_expression(text: str | None) -> Callable[..., Any] | None:
    return None if text is None else ENVIRONMENT.compile_expression(text, undefined_to_none=False)


@dataclass(frozen=True)
class RecordRenderer:
    """What it takes to render one record, and where it stands, for what can go wrong.

    Attributes:
        values: `record` and its columns.
        where: `file:line` of the row.
        path: of the data template.
    """

    values: dict[str, Any]
    where: str
    path: Path
    limits: Limits

    def messages(self, parts: Sequence[CompiledMessage]) -> tuple[Message, ...]:
        """The messages; calls have ids in their order, as `finetune verify` counts them, and results those of theirs.

        Raises:
            DataError: what can't be rendered or renders to nothing; calls that are none, or lack results.
        """
        messages: list[Message] = []
        calls: list[dict[str, Any]] = []  # of the conversation so far
        results = 0
        for item in parts:
            role = item.part.role
            message: Message = {"role": role, "content": self.value(item.text, f"the {role} message")}
            if item.calls is not None:
                message["tool_calls"] = self._calls(item.calls, len(calls))
                calls += message["tool_calls"]
            elif role == "tool":
                if results < len(calls):
                    message |= {"tool_call_id": calls[results]["id"], "name": calls[results]["function"]["name"]}
                results += 1
            elif not message["content"]:
                raise DataError(f"{self.where}: the {role} message of {self.path} renders to nothing")
            messages.append(message if item.part.train else message | {"train": False})
        answered = len(calls) - len(messages[-1].get("tool_calls", ()))
        if results != answered:
            raise DataError(
                f"{self.where}: the messages of {self.path}: {answered} calls before the answer, {results} results; "
                "a `tool` message for each call is needed"
            )
        return tuple(messages)

    def text(self, part: Native, what: str) -> str:
        """Raises DataError: as `value`; text that is empty."""
        text: str = self.value(part, f"the {what}")
        if not text:
            raise DataError(f"{self.where}: the {what} of {self.path} renders to nothing")
        return text

    def value(self, part: Native, what: str) -> Any:
        try:
            return part(self.values, self.limits)
        except Exception as error:  # whatever the expressions of the template raise
            raise DataError(f"{self.where}: {what} of {self.path} can't be rendered: {error}") from error

    def tools(self, task: CompiledTask) -> tuple[dict[str, Any], ...]:
        """The task's tools in OpenAI's shape; those that a record brings are checked here, the others have been."""
        if task.tools is None:
            return task.fixed_tools
        problems: list[str] = []
        tools = read_tools(self.value(task.tools, "tools"), "tools", problems)
        for index, tool in enumerate(tools):
            wrong = schema_problem(tool)
            problems += [f"tools[{index}]: parameters: {wrong}"] if wrong else []
        if problems:
            raise DataError([f"{self.where}: {problem}" for problem in problems])
        return tools

    def check_calls(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> None:
        """Raises DataError: calls of tools that are not there, arguments that their schemas do not allow."""
        functions = [call["function"] for message in messages for call in message.get("tool_calls", ())]
        problems = [
            f"{self.where}: a tool call of {self.path}: {problem}"
            for function in functions
            for problem in call_problems(function["name"], function["arguments"], tools)
        ]
        if problems:
            raise DataError(problems)

    def _calls(self, part: Native, first: int) -> list[dict[str, Any]]:
        """Calls in OpenAI's shape, numbered from `first` on."""
        given = self.value(part, "a tool call")
        problems: list[str] = []
        calls = read_calls(given, "tool_calls", problems)
        if not problems and not calls:
            problems.append("tool_calls: there is none; such records need a variant or a task without calls")
        if problems:
            raise DataError([f"{self.where}: {problem} (of {self.path})" for problem in problems])
        for call in calls:
            function = call["function"]
            if isinstance(function["arguments"], str):
                function["arguments"] = strict_json(function["arguments"])
        return [{"id": f"call{first + k:05d}", **call} for k, call in enumerate(calls)]
