"""The keys of a data template file, and what can be wrong with them before any row is seen."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jinja2
from jinja2 import meta, nodes
from pydantic import Field, ValidationError, field_validator, model_validator

from finetune.data.columns import Column, Part
from finetune.data.jinja import ENVIRONMENT, parse
from finetune.data.limits import DEFAULT, Limits
from finetune.data.messagekeys import (
    Messages,
    Source,
    Tools,
    answer_last,
    check_use_of_tools,
    message_sources,
    native_sources,
    tools_problems,
)
from finetune.data.metric import Metric
from finetune.errors import DataError, did_you_mean, plainly
from finetune.yamlfile import Lines, read_yaml

MAX_FILE = 1_000_000  # bytes of a template file


class Variant(Part):
    """One wording of a task. `when`: a Jinja expression that says for which records it may be chosen."""

    name: str
    when: Source | None = None
    messages: Messages

    _ends_with_the_answer = field_validator("messages")(answer_last)


Variants = Annotated[tuple[Variant, ...], Field(strict=False, min_length=1)]


class Task(Part):
    """One thing asked of a record: messages, or variants of them. `when`: for which records it is asked.

    `metric`: how its answers are scored, instead of the file's metric; `tools`: what may be called, instead of the
    file's.
    """

    name: str
    when: Source | None = None
    messages: Messages | None = None
    variants: Variants | None = None
    metric: Metric | None = None
    tools: Tools | None = None

    _ends_with_the_answer = field_validator("messages")(answer_last)

    @model_validator(mode="after")
    def one_form(self) -> Task:
        if (self.messages is None) == (self.variants is None):
            raise ValueError("give either `messages` or `variants`")
        _refuse_twice("variant", [variant.name for variant in self.variants or ()])
        return self


class Example(Part):
    """A worked example: this row must render to this last answer (and this last user message, when given).

    `task` says which one, where the template has several; `variant` takes that wording, whatever the record's hash.
    `rejected` and `label` are what the template's own must come to, where it has them.
    """

    row: dict[str, Any]
    answer: str
    rejected: str | None = None
    label: bool | None = None
    prompt: str | None = None
    task: str | None = None
    variant: str | None = None


class TemplateFile(Part):
    """The whole file. Exactly one of `messages`, `variants` and `tasks`; a `metric` unless they make plain text.

    `label`: a Jinja expression that says whether the answer is a good one; the template is then for stage kto.
    """

    name: str
    description: str
    columns: dict[str, Column]
    messages: Messages | None = None
    variants: Variants | None = None
    tasks: Annotated[tuple[Task, ...], Field(strict=False, min_length=1)] | None = None
    label: Source | None = None
    metric: Metric | None = None
    tools: Tools | None = None
    limits: Limits = DEFAULT
    examples: Annotated[tuple[Example, ...], Field(strict=False, min_length=1)]

    _ends_with_the_answer = field_validator("messages")(answer_last)

    @model_validator(mode="after")
    def one_form(self) -> TemplateFile:
        if sum(form is not None for form in (self.messages, self.variants, self.tasks)) != 1:
            raise ValueError("give exactly one of `messages`, `variants` and `tasks`")
        _refuse_twice("variant", [variant.name for variant in self.variants or ()])
        _refuse_twice("task", [task.name for task in self.tasks or ()])
        for task in self.all_tasks():
            for messages in filter(None, (task.messages, *(variant.messages for variant in task.variants or ()))):
                check_use_of_tools(messages, task.tools, task.metric or self.metric)
        return self

    @model_validator(mode="after")
    def one_kind_of_rows(self) -> TemplateFile:
        forms = [
            form for task in self.all_tasks() for form in (task.messages, *(v.messages for v in task.variants or ()))
        ]
        roles: set[str] = {message.role for form in forms for message in form or ()}
        if "text" in roles:
            self._makes_text(roles)
        elif self.metric is None:
            raise ValueError("`metric` is missing: how answers are scored")
        worse = {form[-1].rejected is not None for form in forms if form}
        if len(worse) > 1:
            raise ValueError("either every answer has a `rejected` beside it, or none")
        if self.label is not None and worse == {True}:
            raise ValueError("`label` and `rejected` are for different stages; give one of them")
        for index, example in enumerate(self.examples):
            for key, here in (("rejected", worse == {True}), ("label", self.label is not None)):
                if (getattr(example, key) is not None) != here:
                    said = (
                        f"the template has a `{key}`: say what it comes to" if here else f"the template has no `{key}`"
                    )
                    raise ValueError(f"examples.{index}: {said}")
        return self

    def _makes_text(self, roles: set[str]) -> None:
        if len(roles) > 1:
            raise ValueError(
                "the role text makes documents, other roles conversations; give each a template of its own"
            )
        if self.metric is not None or any(task.metric for task in self.tasks or ()):
            raise ValueError("`metric` has no effect on documents (role text)")
        if self.label is not None:
            raise ValueError("`label` has no effect on documents (role text)")

    @model_validator(mode="after")
    def metrics_name_columns(self) -> TemplateFile:
        for metric in filter(None, (self.metric, *(task.metric for task in self.tasks or ()))):
            for key, place in metric.named_columns.items():
                column = place.partition(".")[0]
                if column not in self.columns:
                    raise ValueError(f"metric.{key}: {column!r} is not a column{did_you_mean(column, self.columns)}")
        return self

    @property
    def rows(self) -> str:
        """What the template gives: a value of ROWS_OF_STAGE."""
        if self.label is not None:
            return "labelled"
        task = self.all_tasks()[0]
        answer = (task.messages or task.variants[0].messages)[-1]  # type: ignore[index]
        if answer.role == "text":
            return "text"
        return "conversation" if answer.rejected is None else "preference"

    def all_tasks(self) -> tuple[Task, ...]:
        """Every form as tasks: a template without tasks has one, named like the template."""
        if self.tasks is None:
            return (Task(name=self.name, messages=self.messages, variants=self.variants, tools=self.tools),)
        return tuple(task if task.tools else task.model_copy(update={"tools": self.tools}) for task in self.tasks)


def _refuse_twice(what: str, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{what} {twice!r} is given twice")


def read_template_file(path: Path) -> tuple[TemplateFile, Lines]:
    """The file's keys, checked, and their lines.

    Raises:
        DataError: not a file of at most MAX_FILE bytes, wrong keys, Jinja that does not parse or that names an
            undeclared column.
    """
    if path.exists() and not path.is_dir() and not path.is_file():
        raise DataError(f"{path}: is not a file")
    if path.is_file() and path.stat().st_size > MAX_FILE:
        raise DataError(f"{path}: is larger than {MAX_FILE:,} bytes; that is no template")
    data, lines = read_yaml(path)
    try:
        content = TemplateFile.model_validate(data)
    except ValidationError as error:
        raise DataError([_problem(path, item, lines) for item in error.errors()]) from None
    problems = [problem for at, text, is_when in _sources(content) for problem in _jinja(content, at, text, is_when)]
    problems += tools_problems(("tools",), content.tools)
    for index, task in enumerate(content.tasks or ()):
        problems += tools_problems(("tasks", str(index), "tools"), task.tools)
    if problems:
        raise DataError([f"{path}:{_line(lines, at)}: {_key(at)}: {what}" for at, what in problems])
    return content, lines


def _sources(content: TemplateFile) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """Key path and text of all Jinja in the file; whether it is an expression."""
    if content.label is not None:
        yield ("label",), content.label, True
    if isinstance(content.tools, str):
        yield from native_sources(("tools",), content.tools)
    for index, task in enumerate(content.all_tasks()):
        at: tuple[str, ...] = ("tasks", str(index)) if content.tasks else ()
        if task.when is not None:
            yield (*at, "when"), task.when, True
        if content.tasks and isinstance(content.tasks[index].tools, str):
            yield from native_sources((*at, "tools"), task.tools)
        yield from message_sources((*at, "messages"), task.messages or ())
        for k, variant in enumerate(task.variants or ()):
            place = (*at, "variants", str(k))
            if variant.when is not None:
                yield (*place, "when"), variant.when, True
            yield from message_sources((*place, "messages"), variant.messages)


def _jinja(
    content: TemplateFile, at: tuple[str, ...], text: str, is_when: bool
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with one piece of Jinja."""
    try:
        tree = parse(text, is_when)
    except jinja2.TemplateSyntaxError as error:
        yield at, f"Jinja line {error.lineno}: {error.message}"
        return
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    known = assigned | {"record", *ENVIRONMENT.globals, *content.columns}
    for name in sorted(meta.find_undeclared_variables(tree) - known):
        yield at, f"{name}: not a column{did_you_mean(name, content.columns)}"
    for item in tree.find_all(nodes.Getitem):
        key = item.arg.value if isinstance(item.arg, nodes.Const) else None
        whole = isinstance(item.node, nodes.Name) and item.node.name == "record" and "record" not in content.columns
        if whole and isinstance(key, str) and key not in content.columns:
            yield at, f"{key}: not a column{did_you_mean(key, content.columns)}"


def _key(at: tuple[str, ...]) -> str:
    """A message's content is named by the section it is in; anything else by its whole path."""
    return ".".join(at[:-2] if at[-1] == "content" else at)


def _line(lines: Lines, at: tuple[str, ...]) -> int:
    return next((lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in lines), 1)


def _problem(path: Path, item: Any, lines: Lines) -> str:
    """One pydantic error as `file:line: key: what`."""
    location = tuple(
        str(part) for part in item["loc"] if not str(part).startswith(("function-", "constrained-", "one-"))
    )
    message = plainly(item)
    if item["type"] == "extra_forbidden":
        model: type[Part] = TemplateFile
        for part in location[:-1]:
            inner = _model_in(model.model_fields[part].annotation) if part in model.model_fields else None
            model = inner or model
        names = [getattr(its.validation_alias, "choices", [name])[0] for name, its in model.model_fields.items()]
        message = f"unknown key{did_you_mean(location[-1], names)}"
    elif item["type"] == "missing":
        message = "is missing"
    key = f"{'.'.join(location)}: " if location else ""
    return f"{path}:{_line(lines, location)}: {key}{message}"


def _model_in(annotation: Any) -> type[Part] | None:
    """The first of our models in a type such as `tuple[Task, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next(filter(None, (_model_in(inner) for inner in typing.get_args(annotation))), None)
