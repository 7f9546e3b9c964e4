"""Answers beside their references, and the scores they come to."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.prepare import Prepared
from finetune.errors import DataError
from finetune.evaluate.metrics import Scores, mean, reference_problem, score_rows

if TYPE_CHECKING:
    from finetune.evaluate.generate import Answer

MEAN_LOGPROB = "mean_logprob"  # a score of stage cpt, in nats a token


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


def score_lines(scores: dict[str, Scores]) -> list[str]:
    """Base and tuned side by side, one score a line; what a model gives a token on average as perplexity too."""
    width = max(len(name) for name in scores["tuned"])
    lines = [f"{'score':<{width}}   base  tuned"]
    for name, value in scores["tuned"].items():
        lines.append(f"{name:<{width}}  {scores['base'][name]:.3f}  {value:.3f}")
        if name.endswith(MEAN_LOGPROB):
            before, after = (math.exp(-score) for score in (scores["base"][name], value))
            lines.append(f"{'(perplexity)':<{width}}  {before:.3f}  {after:.3f}")
    return lines


def scored(folder: Path, data: Prepared, answers: Sequence[Answer], who: str) -> Scores:
    """Scores; every answer goes beside its reference into `<folder>/answers.<who>.jsonl`."""
    samples = list(data.evaluate)
    with (folder / f"answers.{who}.jsonl").open("w", encoding="utf-8") as file:
        for sample, item in zip(samples, answers, strict=True):
            line = {
                "where": sample.where,
                **({"task": sample.task} if sample.task else {}),
                "prompt": list(sample.prompt),
                "reference": sample.answer,
                "answer": item.text,
                "finished": item.finished,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    rows = score_rows(
        [item.text for item in answers],
        [sample.answer for sample in samples],
        [data.metrics[sample.task] for sample in samples],
    )
    by_task = {
        task: [row for row, sample in zip(rows, samples, strict=True) if sample.task == task] for task in data.metrics
    }
    # In the template's order of tasks, so that the first name does not depend on which row comes first.
    scores = mean([row for part in by_task.values() for row in part])
    scores["finished"] = sum(item.finished for item in answers) / len(answers)
    return scores | {
        f"{task}/{name}": value for task, part in by_task.items() if task for name, value in mean(part).items()
    }
