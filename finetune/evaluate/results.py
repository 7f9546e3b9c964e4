"""Answers beside their references, and the scores they come to."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.data.prepare import Prepared
from finetune.data.split import group_of
from finetune.errors import DataError
from finetune.evaluate.intervals import Interval, Intervals, numbered
from finetune.evaluate.metrics import Scores, aggregate, reference_of, reference_problem, score_rows
from finetune.recipe_data import SplitSection

if TYPE_CHECKING:
    from finetune.evaluate.generate import Answer

MEAN_LOGPROB = "mean_logprob"  # a score of stage cpt, in nats a token
FINISHED = "finished"


def check_references(data: Prepared) -> None:
    """Raises DataError: held-out rows whose reference their metric can't read, the first ten of them."""
    problems = [
        f"{sample.where}: {problem}"
        for sample in data.evaluate
        if (problem := reference_problem(sample.answer, data.metrics[sample.task]))
    ]
    if problems:
        more = [f"and {len(problems) - 10} more held-out rows"] if len(problems) > 10 else []
        raise DataError(problems[:10] + more)


@dataclass(frozen=True)
class Evaluated:
    """Scores of `base` and `tuned`, and the intervals of those that come of answers (None without answers)."""

    scores: dict[str, Scores]
    intervals: Intervals | None = None


def score_lines(scores: dict[str, Scores], intervals: Intervals | None = None) -> list[str]:
    """Base and tuned side by side, one score a line, with their intervals and that of the difference where there are any.

    What a model gives a token on average comes as perplexity too.
    """
    cells = [("score", " base", "tuned", "tuned - base" if intervals else "")]
    for name, value in scores["tuned"].items():
        before = scores["base"][name]
        of_name = [
            ends.get(name) for ends in ((intervals.base, intervals.tuned, intervals.difference) if intervals else ())
        ]
        own = of_name or [None, None, None]
        cells.append(
            (name, _cell(before, own[0]), _cell(value, own[1]), _cell(value - before, own[2]) if own[2] else "")
        )
        if name.endswith(MEAN_LOGPROB):
            cells.append(("(perplexity)", f"{math.exp(-before):.3f}", f"{math.exp(-value):.3f}", ""))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _cell(value: float, ends: Interval | None) -> str:
    return f"{value:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def write_answers(folder: Path, data: Prepared, answers: Sequence[Answer], who: str) -> None:
    """Every answer beside its reference into `<folder>/answers.<who>.jsonl`."""
    with (folder / f"answers.{who}.jsonl").open("w", encoding="utf-8") as file:
        for sample, item in zip(data.evaluate, answers, strict=True):
            line = {
                "where": sample.where,
                **({"task": sample.task} if sample.task else {}),
                "prompt": list(sample.prompt),
                "reference": sample.answer,
                "answer": item.text,
                "finished": item.finished,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def rows_of(data: Prepared, answers: Sequence[Answer]) -> list[Scores]:
    """What each held-out sample's answer comes to by the metric of its task, and whether it ended by itself."""
    samples = list(data.evaluate)
    metrics = [data.metrics[sample.task] for sample in samples]
    references = [reference_of(sample, metric) for sample, metric in zip(samples, metrics, strict=True)]
    rows = score_rows([item.text for item in answers], references, metrics)
    return [row | {FINISHED: float(item.finished)} for row, item in zip(rows, answers, strict=True)]


def tasks_of(data: Prepared) -> list[str]:
    """The task of each held-out sample."""
    return [sample.task for sample in data.evaluate]


def groups_of(data: Prepared, split: SplitSection | None) -> np.ndarray:
    """(samples,) numbers of what held-out samples are drawn by: the value of `split.by`; without it, the row."""
    by = split.by if split else None
    return numbered([repr(group_of(sample.record, by)) if by else sample.where for sample in data.evaluate])


def scored(data: Prepared, rows: Sequence[Scores]) -> Scores:
    """The scores of all rows (of `rows_of`), and of each task's as `task/name` where there are several tasks."""
    tasks = tasks_of(data)
    by_task = {task: [row for row, own in zip(rows, tasks, strict=True) if own == task] for task in data.metrics}
    # In the template's order of tasks, so that the first name does not depend on which row comes first.
    scores = aggregate([row for part in by_task.values() for row in part])
    scores[FINISHED] = scores.pop(FINISHED)  # the last one
    return scores | {
        f"{task}/{name}": value
        for task, part in by_task.items()
        if task
        for name, value in aggregate(part).items()
        if name != FINISHED
    }
