"""The sections of single stages: a recipe may have that of its own stage, none of another's."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


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
    """Continued pre-training on plain text."""


class SftSection(StageSection):
    """Supervised fine-tuning on conversations.

    `label_smoothing_factor`: the share of the target's probability that training spreads over the whole vocabulary.
    """

    label_smoothing_factor: float = Field(0.0, ge=0, lt=1)


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
