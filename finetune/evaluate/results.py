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
from finetune.data.rows import Sample
from finetune.data.split import group_of
from finetune.errors import DataError
from finetune.evaluate.intervals import Intervals, numbered, with_ends
from finetune.evaluate.metrics import Scores, aggregate, reference_of, reference_problem, score_rows
from finetune.evaluate.support import beside, problem_of
from finetune.recipe_data import SplitSection

if TYPE_CHECKING:
    from finetune.data.items import Item
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


def unsupported_references(data: Prepared) -> list[str]:
    """What passages do not support of held-out references, the first three rows of them: then a right answer has no 1 either.

    Notes, for a figure may be read wrong.

    Raises:
        DataError: most of the references of a task are: `grounded` or `passages` does not fit it.
    """
    notes, problems = [], []
    for task, metric in data.metrics.items():
        samples = [sample for sample in data.evaluate if sample.task == task] if metric.beside else []
        found = [f"{sample.where}: {problem}" for sample in samples if (problem := problem_of(sample, metric))]
        said = f"{task}: " if task else ""
        more = (
            f"{said}{', '.join(metric.beside)}: {len(found)} of {len(samples)} held-out references have no 1 themselves"
        )
        if 2 * len(found) > len(samples):
            problems += [*found[:3], f"{more}; the metric's settings do not fit the task"]
        elif found:
            notes += [*found[:3], more]
    if problems:
        raise DataError(problems)
    return notes


@dataclass(frozen=True)
class Evaluated:
    """Scores of `base`, `tuned` and, where there is one, `previous`; the intervals of those that come of rows."""

    scores: dict[str, Scores]
    intervals: Intervals | None = None


def score_lines(scores: dict[str, Scores], intervals: Intervals | None = None) -> list[str]:
    """The models side by side, one score a line, with their intervals and those of the differences where there are any.

    What a model gives a token on average comes as perplexity too.
    """
    others = [who for who in ("base", "previous") if who in scores]
    differences = {"base": "difference", "previous": "difference_previous"}
    ends = {who: getattr(intervals, who) if intervals else {} for who in (*others, "tuned", *differences.values())}
    heads = [f" {who}" for who in others] + ["tuned"] + ([f"tuned - {who}" for who in others] if intervals else [])
    cells = [("score", *heads)]
    for name, value in scores["tuned"].items():
        line = [with_ends(scores[who].get(name), ends[who].get(name)) for who in others]
        line.append(with_ends(value, ends["tuned"].get(name)))
        for who in others if intervals else ():
            both, before = ends[differences[who]].get(name), scores[who].get(name)
            line.append(with_ends(value - before, both) if both and before is not None else "")
        cells.append((name, *line))
        if name.endswith(MEAN_LOGPROB):
            of_all = [scores[who].get(name) for who in (*others, "tuned")]
            told = ["" if one is None else f"{math.exp(-one):.3f}" for one in of_all]
            cells.append(("(perplexity)", *told, *([""] * (len(heads) - len(told)))))
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads) + 1)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


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


def write_scores(folder: Path, evaluated: Evaluated) -> None:
    """Scores and intervals into `<folder>/scores.json`, as MANIFEST.json has them; a run that the gate stops has them too."""
    ends = evaluated.intervals.record() if evaluated.intervals else None
    text = json.dumps({"scores": evaluated.scores, "intervals": ends}, ensure_ascii=False, indent=2)
    (folder / "scores.json").write_text(text + "\n", encoding="utf-8")


def rows_of(data: Prepared, answers: Sequence[Answer]) -> list[Scores]:
    """What each held-out sample's answer comes to by the metric of its task and beside it, and whether it ended by itself."""
    samples = list(data.evaluate)
    metrics = [data.metrics[sample.task] for sample in samples]
    references = [reference_of(sample, metric) for sample, metric in zip(samples, metrics, strict=True)]
    rows = score_rows([item.text for item in answers], references, metrics)
    return [
        row | beside(item.text, sample, metric) | {FINISHED: float(item.finished)}
        for row, item, sample, metric in zip(rows, answers, samples, metrics, strict=True)
    ]


def tasks_of(data: Prepared) -> list[str]:
    """The task of each held-out sample."""
    return [sample.task for sample in data.evaluate]


def groups_of(data: Prepared, split: SplitSection | None) -> np.ndarray:
    """(samples,) numbers of what held-out samples are drawn by: the value of `split.by`; without it, the row."""
    return numbered([_group(sample, split) for sample in data.evaluate])


def groups_of_items(items: Sequence[Item], data: Prepared, split: SplitSection | None) -> np.ndarray:
    """(items,) the same of encoded items, of which a sample may have given several."""
    groups = {sample.where: _group(sample, split) for sample in data.evaluate}
    return numbered([groups[item.where] for item in items])


def _group(sample: Sample, split: SplitSection | None) -> str:
    by = split.by if split else None
    return repr(group_of(sample.record, by)) if by else sample.where


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
