"""What the models of an evaluation are asked, and what they say: rows, suites, by transformers or by vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.prepare import Prepared
from finetune.evaluate.metrics import Scores
from finetune.inputs import make_stage, with_good_answers
from finetune.ready import Ready
from finetune.recipe import Recipe
from finetune.suites import suite_recipe

if TYPE_CHECKING:
    from finetune.data.items import Item
    from finetune.device import Placement
    from finetune.evaluate.generate import Answer
    from finetune.evaluate.measure import Measured
    from finetune.log import Log


@dataclass(frozen=True)
class Asked:
    """Rows that the models are asked: those held out of a stage or part of a mixture, or a suite.

    Attributes:
        name: before its scores; empty for a run's own rows.
        recipe: its own. suite: whether it is one.
        data: with `evaluate` the rows that are answered.
        whole: with those that are measured: of labelled rows the bad answers too.
        items: what is measured, encoded. measured, answers: whether anything is.
    """

    name: str
    recipe: Recipe
    suite: bool
    data: Prepared
    whole: Prepared
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


def own_rows(ready: Ready) -> list[Asked]:
    """The held-out rows of the stage, or of each part of a mixture."""
    return [
        Asked(
            part.name, part.recipe, False, with_good_answers(part.data, part.recipe.stage), part.data, part.encoder,
            part.stage, part.held_out, bool(part.recipe.settings.held_out_scores), part.recipe.settings.answers,
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
    return Asked(name, own, True, data, data, encoder, stage, items, section.likelihood, section.answers)


def ask(
    model: Any,
    asked: Sequence[Asked],
    who: str,
    found: Found,
    placement: Placement,
    log: Log,
    start: Any = None,
    answers: bool = True,
) -> None:
    """What this model comes to, into `found`.

    Args:
        start: as `measure` takes it.
        answers: false where they are made elsewhere (`ask_vllm`).
    """
    from finetune.evaluate.generate import answer
    from finetune.evaluate.measure import measure

    for one in asked:
        of = f" of {one.name}" if one.name else ""
        if one.measured:
            log.say(f"measuring {len(one.items)} held-out rows{of}: {who}")
            found.measured.setdefault(one.name, {})[who] = measure(model, one.stage, one.items, start, placement)
        if one.answers and answers:
            log.say(f"answering {len(one.data.evaluate)} held-out prompts{of}: {who}")
            section, bar = one.recipe.evaluate, f"{who} answers"
            said = answer(model, one.encoder, one.data.evaluate, section, placement, log, bar)
            found.answers.setdefault(one.name, {})[who] = said


def check_engine(engine: str, placement: Placement) -> None:
    """Raises RecipeError where the recipe's `evaluate.engine` can't answer on this device."""
    if engine == "vllm":
        from finetune.evaluate.vllm_engine import check_placement

        check_placement(placement)


def ask_vllm(
    ready: Ready, asked: Sequence[Asked], found: Found, adapter: Path, placement: Placement, log: Log, file: Path
) -> None:
    """The answers of base and tuned model by vLLM, into `found`; the model in training leaves the device meanwhile.

    Args:
        adapter: the folder of the trained adapter. file: where what vLLM says goes.
    """
    from finetune.evaluate.generate import with_calls
    from finetune.evaluate.vllm_engine import answer_both, aside

    with aside(ready.model, placement):
        for one in (one for one in asked if one.answers):
            samples, section, tokenizer = list(one.data.evaluate), one.recipe.evaluate, one.encoder.tokenizer
            log.say(f"answering {len(samples)} held-out prompts{f' of {one.name}' if one.name else ''} by vLLM")
            prompts = [one.encoder.encode_prompt(sample.prompt, sample.tools, sample.where) for sample in samples]
            both = answer_both(
                ready.base.source, adapter, tokenizer, prompts, section.max_new_tokens, ready.stop_ids, placement.dtype,
                section.vllm, file,
            )  # fmt: skip
            for who, answers in zip(("base", "tuned"), both, strict=True):
                said = [
                    with_calls(item, sample.tools, tokenizer) for item, sample in zip(answers, samples, strict=True)
                ]
                found.answers.setdefault(one.name, {})[who] = said
