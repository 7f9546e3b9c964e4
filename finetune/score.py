"""Base, tuned model and the release before on held-out rows, suites and lm-eval's tasks; the golden samples of what was said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.asked import Asked, Found, ask, ask_vllm, own_rows, suite_asked
from finetune.evaluate.intervals import Losses, Rows, intervals
from finetune.evaluate.metrics import Scores
from finetune.evaluate.release import write_safety_report
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
from finetune.inputs import make_stage
from finetune.ready import Ready
from finetune.recipe import Recipe
from finetune.suites import Beside

if TYPE_CHECKING:
    from finetune.device import Placement
    from finetune.evaluate.harness import HarnessScores
    from finetune.evaluate.previous import Previous
    from finetune.log import Log


def evaluate(
    recipe: Recipe, ready: Ready, placement: Placement, log: Log, beside: Beside, adapter: Path
) -> Evaluated | None:
    """Scores of all models: what each stage measures, and answers by the metric of their data.

    Every process takes its share; the main one has the scores. Those of a mixture's part or of a suite have its name
    before theirs; those of the run's own rows come first.

    Args:
        adapter: the folder of the trained one.
    """
    from finetune.model.reference import as_base

    suites = [suite_asked(recipe, name, its, ready.base.tokenizer) for name, its in beside.suites.items()]
    asked = [*own_rows(ready), *suites]
    found, by_vllm = Found(), recipe.evaluate.engine == "vllm"
    harness: dict[str, HarnessScores | None] = {}
    for who, model in (("base", as_base(ready.model, ready.fresh)), ("tuned", nullcontext())):
        with model:
            ask(ready.model, asked, who, found, placement, log, ready.start, not by_vllm)
            if beside.harness is not None:
                harness[who] = _harness(ready, recipe, beside, placement, log, who)
    if by_vllm:
        ask_vllm(ready, asked, found, adapter, placement, log, recipe.output_dir / "vllm.log")
    main = placement.accelerator.is_main_process
    if main and any(not one.suite and one.answers for one in asked):
        freeze_golden(recipe, ready, asked, found, placement)
    if beside.previous is not None:
        with _other_model(beside.previous, recipe, asked, placement) as (other, again):
            ask(other, again, "previous", found, placement, log)
    placement.accelerator.end_training()
    if not main:
        return None
    evaluated = _evaluated(recipe, asked, found, {who: its for who, its in harness.items() if its is not None})
    write_scores(recipe.output_dir, evaluated)
    for line in score_lines(evaluated.scores, evaluated.intervals):
        log.say(line)
    return evaluated


def _harness(
    ready: Ready, recipe: Recipe, beside: Beside, placement: Placement, log: Log, who: str
) -> HarnessScores | None:
    from finetune.evaluate.harness import harness_scores

    section = recipe.evaluate.lm_eval
    assert section is not None and beside.harness is not None
    return harness_scores(ready.model, ready.base.tokenizer, beside.harness, section, placement, log, who)


@contextmanager
def _other_model(
    previous: Previous, recipe: Recipe, asked: Sequence[Asked], placement: Placement
) -> Iterator[tuple[Any, list[Asked]]]:
    """The previous release, and what it can be asked, encoded with its own tokenizer and chat template."""
    from finetune.evaluate.previous import load_previous

    model, tokenizer = load_previous(previous, placement, recipe.model.trust_remote_code)
    again = [
        suite_asked(recipe, one.name, one.data, tokenizer)
        if one.suite
        else replace(one, encoder=make_stage(one.recipe, tokenizer)[1], measured=False)
        for one in asked
    ]
    yield model, again


def _evaluated(recipe: Recipe, asked: Sequence[Asked], found: Found, harness: dict[str, HarnessScores]) -> Evaluated:
    """The scores and intervals of all that was asked, in its order; answers are written down."""
    scores: dict[str, Scores] = {}
    drawn: dict[str, Rows] = {}
    losses: dict[str, Losses] = {}
    for one in asked:
        split = one.recipe.data.split
        measured, answers = found.measured.get(one.name, {}), found.answers.get(one.name, {})
        for who, its in measured.items():
            scores.setdefault(who, {}).update(one.told(its.scores))
        rows = {}
        for who, said in answers.items():
            write_answers(recipe.output_dir, one.data, said, f"{one.name}.{who}".lstrip("."))
            rows[who] = rows_of(one.data, said)
            scores.setdefault(who, {}).update(one.told(scored(one.data, rows[who])))
        if one.suite and any(metric.name == "refusal" for metric in one.data.metrics.values()):
            write_safety_report(recipe, one.name, one.data, answers, rows)
        if measured:
            losses[one.name] = Losses(**measured, groups=groups_of_items(one.items, one.whole, split))
        if rows:
            drawn[one.name] = Rows(**rows, groups=groups_of(one.data, split), tasks=tasks_of(one.data))
    if harness:
        from finetune.evaluate.harness import paired_rows

        drawn |= paired_rows(harness["base"], harness["tuned"])
        for who, told in harness.items():
            scores.setdefault(who, {}).update(told.scores)
    in_order: dict[str, Scores] = {who: scores[who] for who in ("base", "previous", "tuned") if who in scores}
    return Evaluated(in_order, intervals(drawn, scores["tuned"], losses) if drawn or losses else None)


def freeze_golden(recipe: Recipe, ready: Ready, asked: Sequence[Asked], found: Found, placement: Placement) -> None:
    """Golden samples for `finetune verify` into the run's folder: prompts, their ids, and what the scored model said."""
    from finetune.evaluate.generate import answer_logprobs, as_example
    from finetune.verify.golden import FACTS, SAMPLES, make_facts, make_golden, write_facts, write_golden

    parts = [one for one in asked if one.answers and not one.suite]
    golden = []
    for part in parts:
        its, base, tuned = part.data, found.answers[part.name]["base"], found.answers[part.name]["tuned"]
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
