"""A data template: the contract between raw records and chat messages. Typed columns, messages in Jinja, a metric."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from finetune.data.columns import DropRowError, check_cells
from finetune.data.conversation import read_calls, read_tools
from finetune.data.jinja import ENVIRONMENT, evaluate, render
from finetune.data.limits import LimitError
from finetune.data.native import Native, compile_native
from finetune.data.rows import Message, Row, Sample
from finetune.data.strictjson import strict_json
from finetune.data.templatefile import Example, MessageTemplate, Metric, Task, TemplateFile, read_template_file
from finetune.data.toolschema import call_problems, schema_problem
from finetune.errors import DataError, did_you_mean
from finetune.yamlfile import Lines

__all__ = ["DataTemplate", "Metric", "Rendered", "load_template"]


@dataclass
class Rendered:
    """The samples of many rows, in order, and why rows gave none.

    Attributes:
        dropped: `file:line: column: is null`; a row may have several reasons.
        dropped_rows: how many rows they are.
        problems: what is wrong with rows.
        seen: names of all columns that some row has.
        stopped: a row cost more than the limits, and those after it were not looked at.
    """

    samples: list[Sample] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    dropped_rows: int = 0
    problems: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    stopped: bool = False


class DataTemplate:
    """A checked template file.

    Attributes:
        path: the YAML file; its text goes into the bundle as it is.
        sha256: of the file's text.
        columns: column name to what it may hold.
        metric: how answers are scored, where their task says nothing else.
        metrics: the same by the `task` of a sample, which is empty where there is one task only.
    """

    def __init__(self, path: Path, content: TemplateFile, sha256: str = "") -> None:
        self.path = path
        self.sha256 = sha256
        self._content = content
        self.name = content.name
        self.columns = content.columns
        self.metric = content.metric
        self.examples = content.examples
        self.limits = content.limits
        self.tasks = {task.name: _CompiledTask(task) for task in content.all_tasks()}
        by_task = {task.name: task.metric or content.metric for task in content.all_tasks()}
        only = next(iter(by_task.values())) if len(by_task) == 1 else None
        self.metrics = {"": only} if only else by_task | {"": content.metric}

    def __reduce__(self) -> tuple[type[DataTemplate], tuple[Path, TemplateFile, str]]:
        """Compiled Jinja does not pickle: a worker process compiles it again."""
        return DataTemplate, (self.path, self._content, self.sha256)

    def render_all(self, rows: Sequence[Row]) -> list[Sample]:
        """`render_rows` without the list of dropped rows."""
        return self.render_rows(rows).samples

    def render_rows(self, rows: Sequence[Row]) -> Rendered:
        """Every row rendered: one sample for each task that applies to it.

        Raises:
            DataError: every bad cell as `file:line: column: what was wrong`; a nullable column that no row has; every
                row dropped. A message that costs more than the template's limits stops at once.
        """
        result = self.render_chunk(rows)
        problems = result.problems
        if rows:
            problems += self.check_source(rows[0].file, len(rows), result)
        if problems:
            raise DataError(problems)
        return result

    def render_chunk(self, rows: Sequence[Row]) -> Rendered:
        """Some of a source's rows rendered. What is wrong is in the result, so that all of a source can be told at once."""
        result = Rendered()
        for row in rows:
            result.seen.update(row.values)
            try:
                result.samples.extend(self._render_tasks(row, self._record(row)))
            except DropRowError as reason:
                result.dropped += [f"{row.where}: {part}" for part in reason.args]
                result.dropped_rows += 1
            except DataError as error:
                result.problems += error.problems
                if isinstance(error.__cause__, LimitError):
                    result.stopped = True  # the same on every row: a minute for each would be a hang
                    break
        return result

    def check_source(self, file: str, rows: int, whole: Rendered) -> list[str]:
        """What only all rows of a source can tell: a nullable column that no row has; every row dropped."""
        problems = [
            f"{file}: {name}: no row has this column{did_you_mean(name, whole.seen)}"
            for name in sorted(set(self.columns) - whole.seen if not whole.stopped else ())
            if self.columns[name].on_null != "error"  # where it is, every row has said so already
        ]
        if whole.dropped_rows == rows and not problems and not whole.problems:
            problems.append(f"all {rows} rows are dropped; the first: {whole.dropped[0]}")
        return problems

    def render(self, row: Row, task: str | None = None, variant: str | None = None) -> Sample:
        """One row checked against the columns and rendered to messages.

        Args:
            task: which one; may be left out where there is one only.
            variant: this wording, whatever the record's hash and the variant's `when`.

        Raises:
            DataError: all cells of the row that break their column's rules, a message that renders to nothing or
                costs too much, no such task or variant, or a row that is dropped.
        """
        if task is None and len(self.tasks) > 1:
            raise DataError(f"{row.where}: task: {self.path} has several{did_you_mean('', self.tasks)}")
        if task is not None and task not in self.tasks:
            raise DataError(f"{row.where}: task: no task {task!r}{did_you_mean(task, self.tasks)}")
        try:
            samples = self._render_tasks(row, self._record(row), task, variant)
        except DropRowError as reason:
            raise DataError([f"{row.where}: {part} (the row is dropped)" for part in reason.args]) from None
        return samples[0]

    def _record(self, row: Row) -> dict[str, Any]:
        """The row's declared columns, typed.

        Raises:
            DropRowError: a null where the column says `null: drop`.
        """
        try:
            return check_cells(row.values, self.columns)
        except DropRowError:
            raise
        except ValueError as error:
            raise DataError([f"{row.where}: {part}" for part in error.args]) from None

    def _render_tasks(
        self, row: Row, record: dict[str, Any], only: str | None = None, variant: str | None = None
    ) -> list[Sample]:
        """A sample for each task that applies.

        Raises:
            DropRowError: none applies.
        """
        samples = []
        values = {"record": record, **record}
        for name, task in self.tasks.items():
            if only not in (None, name) or not self._holds(task.when, values, row, f"task {name}"):
                continue
            chosen = self._chosen(task, variant, values, row)
            if chosen is not None:
                task_name = name if len(self.tasks) > 1 else ""
                tools = self._tools(task, values, row)
                messages = self._messages(chosen, values, row)
                self._check_calls(messages, tools, row)
                samples.append(Sample(record, messages, row.where, tools, task_name))
        if not samples:
            raise DropRowError("no task applies" if only is None else f"task {only} does not apply")
        return samples

    def _chosen(
        self, task: _CompiledTask, forced: str | None, values: dict[str, Any], row: Row
    ) -> _CompiledVariant | None:
        """The variant with the highest hash of (task, variant, record) among those that apply.

        So the choice depends on the record alone, not on its place among the rows, and a new variant takes its share
        of the records without moving the others (highest random weight hashing, Thaler and Ravishankar 1998).
        """
        if forced is not None:
            if forced not in task.variants:
                raise DataError(f"{row.where}: variant: no variant {forced!r}{did_you_mean(forced, task.variants)}")
            return task.variants[forced]
        if len(task.variants) == 1:
            variant = next(iter(task.variants.values()))
            return variant if self._holds(variant.when, values, row, f"variant {variant.name}") else None
        record = json.dumps(values["record"], ensure_ascii=False, sort_keys=True, default=str)
        applying = [v for v in task.variants.values() if self._holds(v.when, values, row, f"variant {v.name}")]
        keys = {v.name: hashlib.sha256(f"{task.name}\n{v.name}\n{record}".encode()).digest() for v in applying}
        return max(applying, key=lambda v: keys[v.name], default=None)

    def _holds(self, when: Callable[..., Any] | None, values: dict[str, Any], row: Row, what: str) -> bool:
        if when is None:
            return True
        try:
            answer = evaluate(when, values, self.limits)
            if not isinstance(answer, bool):
                raise TypeError(f"it gives {answer!r}; true or false is needed (`x is not none`, `x > 0`)")
        except Exception as error:  # whatever the expression raises
            raise DataError(f"{row.where}: `when` of {what} of {self.path} can't be evaluated: {error}") from error
        return answer

    def _messages(self, variant: _CompiledVariant, values: dict[str, Any], row: Row) -> tuple[Message, ...]:
        messages: list[Message] = []
        calls: list[dict[str, Any]] = []  # all of the conversation
        results = 0
        for part, template, tool_calls in variant.messages:
            what = f"the {part.role} message of {self.path}"
            text = self._value(template, values, row, what)
            if not text and tool_calls is None and part.role != "tool":
                raise DataError(f"{row.where}: {what} renders to nothing")
            message: Message = {"role": part.role, "content": text}
            if tool_calls is not None:
                given = self._value(tool_calls, values, row, f"a tool call of {self.path}")
                message["tool_calls"] = _calls(given, len(calls), f"{row.where}: tool_calls of {self.path}")
                calls += message["tool_calls"]
            elif part.role == "tool" and results < len(calls):
                message |= {"tool_call_id": calls[results]["id"], "name": calls[results]["function"]["name"]}
            results += part.role == "tool"
            messages.append(message if part.train else message | {"train": False})
        open_calls = len(messages[-1].get("tool_calls", ()))
        if results != len(calls) - open_calls:
            problem = f"{len(calls) - open_calls} calls have {results} results"
            raise DataError(f"{row.where}: the messages of {self.path}: {problem}; a `tool` message for each is needed")
        return tuple(messages)

    def _value(self, part: Native, values: dict[str, Any], row: Row, what: str) -> Any:
        try:
            return part(values, self.limits)
        except Exception as error:  # whatever the expressions of the template raise
            raise DataError(f"{row.where}: {what} can't be rendered: {error}") from error

    def _tools(self, task: _CompiledTask, values: dict[str, Any], row: Row) -> tuple[dict[str, Any], ...]:
        """The task's tools in OpenAI's shape; those that a record brings are checked here, the others have been."""
        if task.tools is None or isinstance(task.tools, tuple):
            return task.tools or ()
        problems: list[str] = []
        tools = read_tools(self._value(task.tools, values, row, f"tools of {self.path}"), "tools", problems)
        for index, tool in enumerate(tools):
            wrong = schema_problem(tool)
            problems += [f"tools[{index}]: parameters: {wrong}"] if wrong else []
        if problems:
            raise DataError([f"{row.where}: {problem}" for problem in problems])
        return tools

    def _check_calls(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], row: Row) -> None:
        """Raises DataError: calls of tools that are not there, arguments that their schemas do not allow."""
        functions = [call["function"] for message in messages for call in message.get("tool_calls", ())]
        problems = [
            f"{row.where}: a tool call of {self.path}: {problem}"
            for function in functions
            for problem in call_problems(function["name"], function["arguments"], tools)
        ]
        if problems:
            raise DataError(problems)


def _calls(given: Any, first: int, where: str) -> list[dict[str, Any]]:
    """Calls of a message in OpenAI's shape, numbered from `first` on, as `finetune verify` numbers them.

    Raises:
        DataError: not a list of name and arguments; an empty one.
    """
    problems: list[str] = []
    calls = read_calls(given, "", problems)
    if not problems and not calls:
        problems.append(": there is none; a variant without calls is needed for such records")
    if problems:
        raise DataError([f"{where}{problem}" for problem in problems])
    for call in calls:
        function = call["function"]
        if isinstance(function["arguments"], str):
            function["arguments"] = strict_json(function["arguments"])
    return [call | {"id": f"call{first + k:05d}"} for k, call in enumerate(calls)]


@dataclass(frozen=True)
class _CompiledVariant:
    name: str
    when: Callable[..., Any] | None
    messages: list[tuple[MessageTemplate, Native, Native | None]]  # with the text's and the calls' Jinja


class _CompiledTask:
    """A task with its Jinja compiled; messages without variants are its one variant."""

    def __init__(self, task: Task) -> None:
        self.name = task.name
        self.when = _expression(task.when)
        self.tools = compile_native(task.tools) if isinstance(task.tools, str) else _written(task.tools)
        forms = [(v.name, v.when, v.messages) for v in task.variants or ()] or [("", None, task.messages or ())]
        self.variants = {
            name: _CompiledVariant(name, _expression(when), [(part, *_compiled(part)) for part in messages])
            for name, when, messages in forms
        }


def _compiled(part: MessageTemplate) -> tuple[Native, Native | None]:
    """The text, which is always rendered as text, and the calls of a message."""
    template = ENVIRONMENT.from_string(part.content or "")
    if part.tool_calls is None or isinstance(part.tool_calls, str):
        calls = part.tool_calls
        return partial(render, template), None if calls is None else compile_native(calls)
    written = [{"name": call.name, "arguments": call.arguments} for call in part.tool_calls]
    return partial(render, template), compile_native(written)


def _written(tools: Sequence[dict[str, Any]] | None) -> tuple[dict[str, Any], ...] | None:
    return None if tools is None else read_tools(list(tools), "tools", [])


def _expression(text: str | None) -> Callable[..., Any] | None:
    return None if text is None else ENVIRONMENT.compile_expression(text, undefined_to_none=False)


def load_template(path: Path) -> DataTemplate:
    """The template in a YAML file, its Jinja compiled, its worked examples run.

    Raises:
        DataError: as `read_template_file`; a worked example that does not hold; a task without one.
    """
    content, lines = read_template_file(path)
    template = DataTemplate(path, content, hashlib.sha256(path.read_bytes()).hexdigest())
    problems = [
        problem
        for index, example in enumerate(template.examples)
        for problem in _example_problems(template, example, lines.get(("examples", str(index)), 0))
    ]
    shown = {example.task for example in template.examples}
    problems += _tasks_without_example(path, content, lines, shown)
    if problems:
        raise DataError(problems)
    return template


def _example_problems(template: DataTemplate, example: Example, line: int) -> list[str]:
    try:
        sample = template.render(Row(example.row, str(template.path), line), example.task, example.variant)
    except DataError as error:
        return error.problems
    user = next((item["content"] for item in reversed(sample.prompt) if item["role"] == "user"), "")
    return [
        f"{template.path}:{line}: examples: the row renders to the {what} {got!r}"
        for what, expected, got in (("answer", example.answer, sample.answer), ("prompt", example.prompt, user))
        if expected is not None and expected.strip() != got
    ]


def _tasks_without_example(path: Path, content: TemplateFile, lines: Lines, shown: set[str | None]) -> list[str]:
    return [
        f"{path}:{lines.get(('tasks', str(index)), 1)}: tasks: {task.name}: no worked example names this task"
        for index, task in enumerate(content.tasks or ())
        if task.name not in shown
    ]
