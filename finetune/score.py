"""Base, tuned model and the release before on held-out rows and suites; the golden samples of what was said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from finetune.data.prepare import Prepared
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
from finetune.inputs import make_stage, with_good_answers
from finetune.ready import Ready
from finetune.recipe import Recipe
from finetune.suites import suite_recipe

if TYPE_CHECKING:
    from finetune.data.items import Item
    from finetune.device import Placement
    from finetune.evaluate.generate import Answer
    from finetune.evaluate.measure import Measured
    from finetune.evaluate.previous import Previous
    from finetune.log import Log


@dataclass(frozen=True)
class Asked:
    """Rows that the models are asked: those held out of a stage or part of a mixture, or a suite.

    Attributes:
        name: before its scores; empty for a run's own rows.
        recipe: its own. suite: whether it is one.
        data: with `evaluate` the rows that are answered.
        items: what is measured, encoded. measured, answers: whether anything is.
    """

    name: str
    recipe: Recipe
    suite: bool
    data: Prepared
    encoder: Any
    stage: Any
    items: Sequence[Item]
    measured: bool
    answers: bool

    def told(self, scores: Mapping[str, float]) -> Scores:
        return {f"{self.name}/{name}" if self.name else name: value for name, value in scores.items()}


@dataclass
class Found:
    """What the models said and came to: by name of what was asked, then by model."""

    answers: dict[str, dict[str, Sequence[Answer]]] = field(default_factory=dict)
    measured: dict[str, dict[str, Measured]] = field(default_factory=dict)


def evaluate(
    recipe: Recipe,
    ready: Ready,
    placement: Placement,
    log: Log,
    suites: Mapping[str, Prepared],
    previous: Previous | None = None,
) -> Evaluated | None:
    """Scores of all models: what each stage measures, and answers by the metric of their data.

    Every process takes its share; the main one has the scores. Those of a mixture's part or of a suite have its name
    before theirs; those of the run's own rows come first.
    """
    from finetune.model.reference import as_base

    asked = [*_own_rows(ready), *(suite_asked(recipe, name, its, ready.base.tokenizer) for name, its in suites.items())]
    found = Found()
    for who, adapter in (("base", as_base(ready.model, ready.fresh)), ("tuned", nullcontext())):
        with adapter:
            _ask(ready.model, asked, who, found, placement, log, ready.start)
    main = placement.accelerator.is_main_process
    if main and any(not one.suite and one.answers for one in asked):
        freeze_golden(recipe, ready, asked, found, placement)
    if previous is not None:
        with _other_model(previous, recipe, asked, placement) as (model, again):
            _ask(model, again, "previous", found, placement, log, None)
    placement.accelerator.end_training()
    if not main:
        return None
    evaluated = _evaluated(recipe, asked, found)
    write_scores(recipe.output_dir, evaluated)
    for line in score_lines(evaluated.scores, evaluated.intervals):
        log.say(line)
    return evaluated


def _own_rows(ready: Ready) -> list[Asked]:
    return [
        Asked(
            part.name, part.recipe, False, with_good_answers(part.data, part.recipe.stage), part.encoder, part.stage,
            part.held_out, bool(part.recipe.settings.held_out_scores), part.recipe.settings.answers,
        )
        for part in ready.parts
    ]  # fmt: skip


def suite_asked(recipe: Recipe, name: str, data: Prepared, tokenizer: Any) -> Asked:
    """A suite's rows, encoded with this tokenizer."""
    from finetune.stages.likelihood import Likelihood

    own, section = suite_recipe(recipe, name), recipe.evaluate.suites[name]
    _stage, encoder = make_stage(own, tokenizer)
    stage = Likelihood(encoder, own.data, own.settings)
    items = stage.encode(data.evaluate) if section.likelihood else []
    return Asked(name, own, True, data, encoder, stage, items, section.likelihood, section.answers)


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


def _ask(
    model: Any, asked: Sequence[Asked], who: str, found: Found, placement: Placement, log: Log, start: Any
) -> None:
    """What this model comes to, into `found`."""
    from finetune.evaluate.generate import answer
    from finetune.evaluate.measure import measure

    for one in asked:
        of = f" of {one.name}" if one.name else ""
        if one.measured:
            log.say(f"measuring {len(one.items)} held-out rows{of}: {who}")
            found.measured.setdefault(one.name, {})[who] = measure(model, one.stage, one.items, start, placement)
        if one.answers:
            log.say(f"answering {len(one.data.evaluate)} held-out prompts{of}: {who}")
            section, bar = one.recipe.evaluate, f"{who} answers"
            said = answer(model, one.encoder, one.data.evaluate, section, placement, log, bar)
            found.answers.setdefault(one.name, {})[who] = said


def _evaluated(recipe: Recipe, asked: Sequence[Asked], found: Found) -> Evaluated:
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
            losses[one.name] = Losses(**measured, groups=groups_of_items(one.items, one.data, split))
        if rows:
            drawn[one.name] = Rows(**rows, groups=groups_of(one.data, split), tasks=tasks_of(one.data))
    in_order = {who: scores[who] for who in ("base", "previous", "tuned") if who in scores}
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
