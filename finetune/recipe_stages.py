"""The sections of single stages: a recipe may have that of its own stage, none of another's."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Frozen, no key beyond the declared ones, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StageSection(Section):
    """What is common to them.

    Attributes:
        answers: whether held-out prompts are answered and scored by the metric of the data.
        held_out_scores: names of the scores that the stage takes off the held-out loss (see stages/base.py), main first.
    """

    answers: ClassVar[bool] = True

    @property
    def held_out_scores(self) -> tuple[str, ...]:
        return ()


class CptSection(StageSection):
    """Continued pre-training on plain text.

    `eos_token`: what ends a document, where it is not the tokenizer's own. `fim_rate`: share of the documents told with
    a middle to fill in, `fim_spm_rate` of these as suffix, prefix, middle; `fim_seed` decides which and where.
    """

    answers: ClassVar[bool] = False

    eos_token: str | None = None
    fim_rate: float = Field(0.0, ge=0, le=1)
    fim_spm_rate: float = Field(0.5, ge=0, le=1)
    fim_seed: int = Field(0, ge=0)

    @property
    def held_out_scores(self) -> tuple[str, ...]:
        return ("mean_logprob", "token_accuracy")

    @model_validator(mode="after")
    def only_where_it_acts(self) -> CptSection:
        for key in ("fim_spm_rate", "fim_seed"):
            if not self.fim_rate and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` has no effect without `fim_rate`")
        return self


class SftSection(StageSection):
    """Supervised fine-tuning on conversations."""


class DpoSection(StageSection):
    """Direct preference optimisation."""


class OrpoSection(StageSection):
    """Odds-ratio preference optimisation."""


class SimpoSection(StageSection):
    """Simple preference optimisation."""


class KtoSection(StageSection):
    """Kahneman-Tversky optimisation on labelled answers."""


class RewardSection(StageSection):
    """A reward model on preferences."""


class GrpoSection(StageSection):
    """Group relative policy optimisation with verifiable rewards."""


class DistillSection(StageSection):
    """Distillation from a teacher."""


STAGE_SECTIONS: dict[str, type[StageSection]] = {
    "cpt": CptSection,
    "sft": SftSection,
    "dpo": DpoSection,
    "orpo": OrpoSection,
    "simpo": SimpoSection,
    "kto": KtoSection,
    "reward": RewardSection,
    "grpo": GrpoSection,
    "distill": DistillSection,
}
