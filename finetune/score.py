"""Base and tuned model on the held-out rows, and the golden samples of what was said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from finetune.data.prepare import Prepared
from finetune.evaluate.intervals import Losses, Rows, intervals
from finetune.evaluate.metrics import Scores
from finetune.evaluate.results import (
    Evaluated,
    groups_of,
    groups_of_items,
    rows_of,
    score_lines,
    scored,
    tasks_of,
    write_answers,
    write_scores,
)
from finetune.inputs import with_good_answers
from finetune.ready import Ready, ReadyPart
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from finetune.device import Placement
    from finetune.evaluate.generate import Answer
    from finetune.evaluate.measure import Measured
    from finetune.log import Log


def evaluate(recipe: Recipe, ready: Ready, placement: Placement, log: Log) -> Evaluated | None:
    """Scores of base and tuned on the held-out rows: what each stage measures, and answers by the metric of its data.

    Every process takes its share; the main one has the scores. Those of a mixture's part have its name before theirs.
    """
    from finetune.evaluate.generate import answer
    from finetune.evaluate.measure import measure
    from finetune.model.reference import as_base

    main = placement.accelerator.is_main_process
    scores: dict[str, Scores] = {"base": {}, "tuned": {}}
    answered: dict[tuple[str, str], Sequence[Answer]] = {}
    measured: dict[tuple[str, str], Measured] = {}
    judged = {part.name: with_good_answers(part.data, part.recipe.stage) for part in ready.parts}
    for who, adapter in (("base", as_base(ready.model, ready.fresh)), ("tuned", nullcontext())):
        with adapter:
            for part in ready.parts:
                of, settings, rows = f" of {part.name}" if part.name else "", part.recipe.settings, judged[part.name]
                if settings.held_out_scores:
                    log.say(f"measuring {len(part.held_out)} held-out rows{of}: {who}")
                    found = measure(ready.model, part.stage, part.held_out, ready.start, placement)
                    measured[part.name, who] = found
                    scores[who] |= _of_part(part, found.scores)
                if settings.answers:
                    log.say(f"answering {len(rows.evaluate)} held-out prompts{of}: {who}")
                    given = (
                        ready.model,
                        part.encoder,
                        rows.evaluate,
                        recipe.evaluate,
                        placement,
                        log,
                        f"{who} answers",
                    )
                    answered[part.name, who] = answer(*given)
    if main and answered:
        freeze_golden(recipe, ready, judged, answered, placement)
    placement.accelerator.end_training()
    if not main:
        return None
    evaluated = _evaluated(recipe, ready, scores, judged, answered, measured)
    write_scores(recipe.output_dir, evaluated)
    for line in score_lines(evaluated.scores, evaluated.intervals):
        log.say(line)
    return evaluated


def _evaluated(
    recipe: Recipe,
    ready: Ready,
    scores: dict[str, Scores],
    data: Mapping[str, Prepared],
    answered: Mapping[tuple[str, str], Sequence[Answer]],
    measured: Mapping[tuple[str, str], Measured],
) -> Evaluated:
    """`scores` with those of the answers, which are written down, and the intervals of all.

    Args:
        data, answered: as freeze_golden takes them.
        measured: by part and `base` or `tuned`.
    """
    rows: dict[str, dict[str, list[Scores]]] = {}
    for (name, who), answers in answered.items():
        part = next(part for part in ready.parts if part.name == name)
        write_answers(recipe.output_dir, data[name], answers, f"{name}.{who}".lstrip("."))
        rows.setdefault(name, {})[who] = rows_of(data[name], answers)
        scores[who] |= _of_part(part, scored(data[name], rows[name][who]))
    in_order = [part.name for part in ready.parts if part.name]
    for who in scores if in_order else ():  # of the first part first: the gate looks at the first score
        scores[who] = dict(sorted(scores[who].items(), key=lambda item: in_order.index(item[0].partition("/")[0])))
    splits = {part.name: part.recipe.data.split for part in ready.parts}
    drawn = {
        name: Rows(**its, groups=groups_of(data[name], splits[name]), tasks=tasks_of(data[name]))
        for name, its in rows.items()
    }
    losses = {
        part.name: Losses(
            measured[part.name, "base"],
            measured[part.name, "tuned"],
            groups_of_items(part.held_out, part.data, splits[part.name]),
        )
        for part in ready.parts
        if (part.name, "tuned") in measured
    }
    return Evaluated(scores, intervals(drawn, scores["tuned"], losses) if drawn or losses else None)


def _of_part(part: ReadyPart, scores: Scores) -> Scores:
    return {f"{part.name}/{name}": value for name, value in scores.items()} if part.name else scores


def freeze_golden(
    recipe: Recipe,
    ready: Ready,
    data: Mapping[str, Prepared],
    answered: Mapping[tuple[str, str], Sequence[Answer]],
    placement: Placement,
) -> None:
    """Golden samples for `finetune verify` into the run's folder: prompts, their ids, and what the scored model said.

    Args:
        data: of each part, by its name.
        answered: by part and `base` or `tuned`.
    """
    from finetune.evaluate.generate import answer_logprobs, as_example
    from finetune.verify.golden import FACTS, SAMPLES, make_facts, make_golden, write_facts, write_golden

    parts = [part for part in ready.parts if (part.name, "tuned") in answered]
    golden = []
    for part in parts:
        its, base, tuned = data[part.name], answered[part.name, "base"], answered[part.name, "tuned"]
        rows = min(recipe.export.golden_rows, len(tuned))
        samples, answers = list(its.evaluate[:rows]), tuned[:rows]
        prompts = [part.encoder.encode_prompt(sample.prompt, sample.tools, sample.where) for sample in samples]
        said = [as_example(ids, item, one.where) for ids, item, one in zip(prompts, answers, samples, strict=True)]
        logprobs = answer_logprobs(ready.model, said, placement)
        golden += make_golden(samples, prompts, answers, its.metrics, base[:rows], logprobs)
    facts = make_facts(
        recipe.name,
        ready.base.identity,
        parts[0].encoder,
        ready.stop_ids,
        placement.dtype,
        recipe.evaluate.max_new_tokens,
    )
    write_golden(recipe.output_dir / SAMPLES, golden)
    write_facts(recipe.output_dir / FACTS, facts)
