"""The keys of a data template file, and what can be wrong with them before any row is seen."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jinja2
from jinja2 import meta, nodes
from pydantic import Field, ValidationError, field_validator, model_validator

from finetune.data.columns import Column, Part
from finetune.data.jinja import ENVIRONMENT, parse
from finetune.data.limits import DEFAULT, Limits
from finetune.errors import DataError, did_you_mean, plainly
from finetune.yamlfile import Lines, read_yaml

MAX_FILE = 1_000_000  # bytes of a template file

Source = Annotated[str, Field(max_length=50_000)]  # Jinja


class MessageTemplate(Part):
    """One message; `content` is Jinja over the columns. White space around the rendered text is cut off.

    `train: false` marks an assistant message that is context only (a worked example in the prompt). `rejected`, beside
    the answer's `content`, is a worse answer: the template is then for the stages that train on preferences. The role
    `text` makes a document for continued pre-training; it stands alone.
    """

    role: Literal["system", "user", "assistant", "text"]
    content: Source
    rejected: Source | None = None
    train: bool = True

    @model_validator(mode="after")
    def only_answers_are_trained(self) -> MessageTemplate:
        if self.role != "assistant" and not self.train:
            raise ValueError("`train: false` is for assistant messages")
        return self


Messages = Annotated[tuple[MessageTemplate, ...], Field(strict=False, min_length=1)]


def _answer_last(messages: tuple[MessageTemplate, ...] | None) -> tuple[MessageTemplate, ...] | None:
    if messages and any(message.role == "text" for message in messages):
        if len(messages) > 1:
            raise ValueError("a message with the role text stands alone")
        return messages
    if messages and (messages[-1].role != "assistant" or not messages[-1].train):
        raise ValueError("the last message must be the assistant's (the answer)")
    if any(message.rejected is not None for message in (messages or ())[:-1]):
        raise ValueError("`rejected` is for the last message (the answer)")
    return messages


class Variant(Part):
    """One wording of a task. `when`: a Jinja expression that says for which records it may be chosen."""

    name: str
    when: Source | None = None
    messages: Messages

    _ends_with_the_answer = field_validator("messages")(_answer_last)


Variants = Annotated[tuple[Variant, ...], Field(strict=False, min_length=1)]


class Metric(Part):
    """How an answer is scored: a name out of METRICS and its settings."""

    name: str
    separator: str = ": "
    tolerance: float = Field(0.0, ge=0)


class Task(Part):
    """One thing asked of a record: messages, or variants of them. `when`: for which records it is asked.

    `metric`: how its answers are scored, instead of the file's metric.
    """

    name: str
    when: Source | None = None
    messages: Messages | None = None
    variants: Variants | None = None
    metric: Metric | None = None

    _ends_with_the_answer = field_validator("messages")(_answer_last)

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
    limits: Limits = DEFAULT
    examples: Annotated[tuple[Example, ...], Field(strict=False, min_length=1)]

    _ends_with_the_answer = field_validator("messages")(_answer_last)

    @model_validator(mode="after")
    def one_form(self) -> TemplateFile:
        if sum(form is not None for form in (self.messages, self.variants, self.tasks)) != 1:
            raise ValueError("give exactly one of `messages`, `variants` and `tasks`")
        _refuse_twice("variant", [variant.name for variant in self.variants or ()])
        _refuse_twice("task", [task.name for task in self.tasks or ()])
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
        return self.tasks or (Task(name=self.name, messages=self.messages, variants=self.variants),)


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
    if problems:
        raise DataError([f"{path}:{_line(lines, at)}: {_key(at)}: {what}" for at, what in problems])
    return content, lines


def _sources(content: TemplateFile) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """Key path and text of all Jinja in the file; whether it is an expression."""
    if content.label is not None:
        yield ("label",), content.label, True
    for index, task in enumerate(content.all_tasks()):
        at: tuple[str, ...] = ("tasks", str(index)) if content.tasks else ()
        if task.when is not None:
            yield (*at, "when"), task.when, True
        yield from _texts((*at, "messages"), task.messages or ())
        for k, variant in enumerate(task.variants or ()):
            place = (*at, "variants", str(k))
            if variant.when is not None:
                yield (*place, "when"), variant.when, True
            yield from _texts((*place, "messages"), variant.messages)


def _texts(at: tuple[str, ...], messages: tuple[MessageTemplate, ...]) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    for i, message in enumerate(messages):
        yield (*at, str(i), "content"), message.content, False
        if message.rejected is not None:
            yield (*at, str(i), "rejected"), message.rejected, False


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
    location = tuple(str(part) for part in item["loc"] if not str(part).startswith(("function-", "constrained-")))
    message = plainly(item)
    if item["type"] == "extra_forbidden":
        model: type[Part] = TemplateFile
        for part in location[:-1]:
            inner = _model_in(model.model_fields[part].annotation) if part in model.model_fields else None
            model = inner or model
        message = f"unknown key{did_you_mean(location[-1], model.model_fields)}"
    elif item["type"] == "missing":
        message = "is missing"
    key = f"{'.'.join(location)}: " if location else ""
    return f"{path}:{_line(lines, location)}: {key}{message}"


def _model_in(annotation: Any) -> type[Part] | None:
    """The first of our models in a type such as `tuple[Task, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next(filter(None, (_model_in(inner) for inner in typing.get_args(annotation))), None)
