"""The sections of single stages: a recipe may have that of its own stage, none of another's."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

AspectName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """Frozen, no key beyond the declared ones, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StageSection(Section):
    """What is common to them.

    Attributes:
        answers: whether held-out prompts are answered and scored by the metric of the data.
        held_out_scores: names of the scores that the stage takes off the held-out loss (see stages/base.py), main first.
        rewards: names of the numbers that a score head gives, where the stage trains one instead of a language model.
    """

    answers: ClassVar[bool] = True

    @property
    def held_out_scores(self) -> tuple[str, ...]:
        return ()

    @property
    def rewards(self) -> tuple[str, ...]:
        return ()


class CptSection(StageSection):
    """Continued pre-training on plain text."""


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
    """A reward model on preferences: a score head instead of the language model's, one number an aspect.

    `aspects`: name -> weight of its loss; empty is a single reward. Rows say in the column `aspects_column` which
    answer is better in which aspect, and in `margin_column` by how much. `center_rewards_coefficient` holds the two
    rewards of a pair around 0.
    """

    answers: ClassVar[bool] = False

    aspects: dict[AspectName, Annotated[float, Field(gt=0, strict=False)]] = Field(default_factory=dict)
    aspects_column: str = "aspects"
    margin_column: str = "margin"
    center_rewards_coefficient: float | None = Field(None, gt=0)

    @property
    def held_out_scores(self) -> tuple[str, ...]:
        return ("accuracy", *(f"accuracy/{name}" for name in self.aspects))

    @property
    def rewards(self) -> tuple[str, ...]:
        return tuple(self.aspects) or ("reward",)


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
