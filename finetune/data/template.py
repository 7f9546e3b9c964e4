"""A data template: the contract between raw records and chat messages. Typed columns, messages in Jinja, a metric."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune.data.columns import DropRowError, check_cells
from finetune.data.jinja import evaluate
from finetune.data.limits import LimitError
from finetune.data.messages import CompiledTask, CompiledVariant, RecordRenderer, compiled_expression
from finetune.data.metric import Metric
from finetune.data.rows import Row, Sample
from finetune.data.templatefile import Example, TemplateFile, read_template_file
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
        metric: how answers are scored, where their task says nothing else; None for plain text.
        metrics: the same by the `task` of a sample, which is empty where there is one task only.
        rows: what it gives, a value of ROWS_OF_STAGE.
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
        self.rows = content.rows
        self._label = compiled_expression(content.label)
        self.tasks = {task.name: CompiledTask(task) for task in content.all_tasks()}
        self.metrics: dict[str, Metric] = {}
        if content.metric is not None:
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
                samples.append(self._sample(task, chosen, values, row, task_name))
        if not samples:
            raise DropRowError("no task applies" if only is None else f"task {only} does not apply")
        return samples

    def _cells(self, values: dict[str, Any]) -> dict[str, Any]:
        """The record; a column called `record` stands in its place in Jinja."""
        return {name: values[name] for name in self.columns}

    def _sample(
        self, task: CompiledTask, variant: CompiledVariant, values: dict[str, Any], row: Row, name: str
    ) -> Sample:
        record = RecordRenderer(values, row.where, self.path, self.limits)
        tools = record.tools(task)
        messages = record.messages(variant.messages)
        record.check_calls(messages, tools)
        sample = Sample(self._cells(values), messages, row.where, tools, name)
        if self.rows in ("conversation", "text"):
            return sample
        asked = tuple({**m, "train": False} if m["role"] == "assistant" else m for m in messages[:-1])
        sample = replace(sample, messages=(*asked, messages[-1]))
        if self._label is not None:
            return replace(sample, marks=(float(self._true(self._label, values, row, "`label`")),))
        assert variant.rejected is not None  # as in every form of the file
        worse = record.text(variant.rejected, "rejected answer")
        if worse == sample.answer:
            raise DataError(f"{row.where}: the rejected answer of {self.path} renders to the same as the better one")
        return replace(sample, rejected=(*asked, {"role": "assistant", "content": worse}))

    def _chosen(
        self, task: CompiledTask, forced: str | None, values: dict[str, Any], row: Row
    ) -> CompiledVariant | None:
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
        record = json.dumps(self._cells(values), ensure_ascii=False, sort_keys=True, default=str)
        applying = [v for v in task.variants.values() if self._holds(v.when, values, row, f"variant {v.name}")]
        keys = {v.name: hashlib.sha256(f"{task.name}\n{v.name}\n{record}".encode()).digest() for v in applying}
        return max(applying, key=lambda v: keys[v.name], default=None)

    def _holds(self, when: Callable[..., Any] | None, values: dict[str, Any], row: Row, what: str) -> bool:
        return when is None or self._true(when, values, row, f"`when` of {what}")

    def _true(self, expression: Callable[..., Any], values: dict[str, Any], row: Row, what: str) -> bool:
        try:
            answer = evaluate(expression, values, self.limits)
            if not isinstance(answer, bool):
                raise TypeError(f"it gives {answer!r}; true or false is needed (`x is not none`, `x > 0`)")
        except Exception as error:  # whatever the expression raises
            raise DataError(f"{row.where}: {what} of {self.path} can't be evaluated: {error}") from error
        return answer


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
    worse = sample.rejected[-1]["content"] if sample.rejected else ""
    if example.label is not None and sample.marks != (float(example.label),):
        return [f"{template.path}:{line}: examples: the row's label is {str(not example.label).lower()}"]
    return [
        f"{template.path}:{line}: examples: the row renders to the {what} {got!r}"
        for what, expected, got in (
            ("answer", example.answer, sample.answer),
            ("prompt", example.prompt, user),
            ("rejected answer", example.rejected, worse),
        )
        if expected is not None and expected.strip() != got
    ]


def _tasks_without_example(path: Path, content: TemplateFile, lines: Lines, shown: set[str | None]) -> list[str]:
    return [
        f"{path}:{lines.get(('tasks', str(index)), 1)}: tasks: {task.name}: no worked example names this task"
        for index, task in enumerate(content.tasks or ())
        if task.name not in shown
    ]
