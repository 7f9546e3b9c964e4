"""The sections of evaluation and gate: what the models are asked, what they are compared with, and what must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from finetune.recipe_data import SourceSection
from finetune.recipe_harness import LmEvalSection, VllmSection
from finetune.recipe_stages import Section

SuiteName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
LM_EVAL = "lm_eval"  # before the scores of its tasks
LIKELIHOOD = ("mean_logprob", "token_accuracy")


class SuiteSection(Section):
    """Further questions that base, tuned model and previous release are asked: what the recipe does not train.

    Attributes:
        template, data: as in the section `data`; ready conversations where there is no template.
        rows: of them at most, taken evenly from the whole.
        max_new_tokens: of an answer.
        answers: whether they are answered and scored by the template's metric.
        likelihood: whether the references' own probability is measured (`mean_logprob` a token, in nats).
        max_length: tokens of a question with its reference.
    """

    template: Path | None = None
    data: Annotated[tuple[SourceSection, ...], Field(strict=False, min_length=1)]
    rows: int | None = Field(None, ge=1)
    max_new_tokens: int = Field(64, ge=1)
    answers: bool = True
    likelihood: bool = False
    max_length: int = Field(1024, ge=8)

    @model_validator(mode="after")
    def something_is_measured(self) -> SuiteSection:
        if not (self.answers or self.likelihood):
            raise ValueError("`answers` and `likelihood` are both false: nothing would be measured")
        return self


class EvaluateSection(Section):
    """Greedy answers to the held-out rows, base and tuned, scored by the data template's metric.

    Attributes:
        rows: of the held-out ones at most, taken evenly from the whole. batch_size: answers at once on a process.
        engine: what answers. lm_eval: further tasks, asked and scored by lm-eval.
        previous: the bundle of an earlier release, or the folder of its run, that answers the same questions.
        suites: further questions, by the name that stands before their scores.
    """

    rows: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    max_new_tokens: int = Field(256, ge=1)
    engine: Literal["transformers", "vllm"] = "transformers"
    vllm: VllmSection = VllmSection()  # type: ignore[call-arg]
    lm_eval: LmEvalSection | None = None
    previous: Path | None = Field(None, strict=False)
    suites: dict[SuiteName, SuiteSection] = Field(default_factory=dict)

    @model_validator(mode="after")
    def a_suite_has_a_name_of_its_own(self) -> EvaluateSection:
        if LM_EVAL in self.suites:
            raise ValueError(f"`suites`: {LM_EVAL} stands before the scores of lm-eval's tasks; take another name")
        return self

    @property
    def named(self) -> set[str]:
        """What stands before the scores that do not come of the held-out rows."""
        return {*self.suites, *([LM_EVAL] if self.lm_eval else [])}


class GateSection(Section):
    """What must hold, or nothing is exported.

    Attributes:
        min: least scores of the tuned model.
        better_than_base: its first score is higher than the base's.
        max_drop: how far a score may lie below the base's: what may be forgotten.
        better_than_previous: its first score is higher than the previous release's.
        max_drop_previous: how far a score may lie below the previous release's.
        confident: the lower end of the 95 % interval counts, of a score and of a difference.
    """

    min: dict[str, float] = Field(default_factory=dict)
    better_than_base: bool = True
    max_drop: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    better_than_previous: bool = False
    max_drop_previous: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    confident: bool = False

    @property
    def of_previous(self) -> list[str]:
        """The keys that need `evaluate.previous`."""
        given = {"better_than_previous": self.better_than_previous, "max_drop_previous": self.max_drop_previous}
        return [f"gate.{key}" for key, value in given.items() if value]


# A gate that lets everything through, for runs that are about something else.
OPEN_GATE: dict[str, Any] = {
    "min": {}, "better_than_base": False, "max_drop": {}, "better_than_previous": False, "max_drop_previous": {},
}  # fmt: skip
