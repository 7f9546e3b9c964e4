"""Scores of lm-eval (EleutherAI's harness): its own tasks, prompts and metrics, on the model of the run.

The numbers are those of lm-eval 0.4.13's `simple_evaluate`; only intervals are ours, of the score of each question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluate.harness_results import about_of, rows_of, scores_of, stderr_of
from finetune.evaluate.harness_tasks import HarnessTasks, as_before, run
from finetune.evaluate.intervals import Rows
from finetune.evaluate.metrics import Scores
from finetune.recipe_evaluate import LM_EVAL
from finetune.recipe_harness import LmEvalSection

if TYPE_CHECKING:
    from finetune.device import Placement
    from finetune.log import Log


@dataclass(frozen=True)
class HarnessScores:
    """What lm-eval found of one model.

    Attributes:
        scores: `lm_eval/<task>/<metric>`; where a task reads answers in several ways, `<metric>,<way>` as lm-eval has it.
        stderr: lm-eval's standard error of those that have one, by the same names.
        rows: of each `lm_eval/<task>`: question -> the scores that are means of the questions' own, by metric.
        about: for the manifest: lm-eval's version, and of each task its version, worked examples and questions.
    """

    scores: Scores
    stderr: Scores
    rows: Mapping[str, Mapping[str, Scores]]
    about: dict[str, Any]


def harness_scores(
    model: Any, tokenizer: Any, tasks: HarnessTasks, section: LmEvalSection, placement: Placement, log: Log, who: str
) -> HarnessScores | None:
    """The peft model as it stands (adapter on or off) on lm-eval's tasks.

    The questions are spread over the processes. The first on each machine has the scores, the others get None.

    Args:
        tasks: of `load_tasks`.
        who: `base` or `tuned`, for the log.
    """
    log.say(f"lm-eval: {', '.join(section.tasks)}: {who}")
    with as_before() as said:
        from finetune.evaluate.harness_model import wrapped  # the first import of lm-eval's model draws random numbers

        with wrapped(model, tokenizer, placement, section.batch_size) as asked:
            found = run(asked, tasks, section)
    cut = [line for line in said if "runcat" in line]  # "Truncating" and "Left truncation"
    if cut:
        log.say(
            f"lm-eval: {who}: prompts longer than the model takes lost their beginning, {len(cut)} times; the first: {cut[0]}"
        )
    if found is None:
        return None
    scores: Scores = {}
    stderr: Scores = {}
    rows = {}
    for name, parts in tasks.reported.items():
        before, its = f"{LM_EVAL}/{name}", scores_of(found, name)
        scores |= {f"{before}/{score}": value for score, value in its.items()}
        stderr |= {f"{before}/{score}": value for score, value in stderr_of(found, name, its).items()}
        rows[before] = rows_of(found["samples"], parts, its)
    return HarnessScores(scores, stderr, rows, about_of(found, tasks.reported))


def paired_rows(base: HarnessScores, tuned: HarnessScores) -> dict[str, Rows]:
    """Base and tuned question by question, for `intervals`: what it makes of them has the scores' names.

    Every question is a group of its own. A task none of whose scores is a mean of questions' has no rows.
    """
    paired = {}
    for name, its in tuned.rows.items():
        if its and its.keys() == base.rows[name].keys():
            before = [base.rows[name][key] for key in its]
            paired[name] = Rows(before, list(its.values()), np.arange(len(its)), [""] * len(its))
    return paired
