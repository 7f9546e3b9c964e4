"""The sections of single stages: a recipe may have that of its own stage, none of another's."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    def precomputes_reference(self) -> bool:
        """Whether the reference's log-probabilities are computed once before training."""
        return getattr(self, "precompute_ref_log_probs", False)

    @property
    def held_out_scores(self) -> tuple[str, ...]:
        return ()

    @property
    def rewards(self) -> tuple[str, ...]:
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


class PairSection(StageSection):
    """What the stages on preference pairs have in common."""

    @property
    def held_out_scores(self) -> tuple[str, ...]:
        return ("chosen_preferred",)


class DpoSection(PairSection):
    """Direct preference optimisation, under TRL's names.

    `beta`: how closely the policy is held to its reference. `label_smoothing`: the chance that a pair is labelled the wrong
    way round. `rpo_alpha`: weight of the chosen answer's mean NLL beside the loss. `precompute_ref_log_probs`: the
    reference's log-probabilities are computed once before training and kept beside the output folder.
    """

    loss_type: Literal["sigmoid", "sigmoid_norm", "hinge", "ipo"] = "sigmoid"
    beta: float = Field(0.1, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    rpo_alpha: float = Field(0.0, ge=0)
    precompute_ref_log_probs: bool = False

    @model_validator(mode="after")
    def smoothing_has_an_effect(self) -> DpoSection:
        if self.label_smoothing and self.loss_type not in ("sigmoid", "sigmoid_norm"):
            raise ValueError(f"`label_smoothing` is for loss_type sigmoid and sigmoid_norm, not {self.loss_type}")
        return self


class OrpoSection(PairSection):
    """Odds-ratio preference optimisation. `beta`: weight of the odds ratio beside the NLL (lambda in the paper)."""

    beta: float = Field(0.1, gt=0)


class SimpoSection(PairSection):
    """Simple preference optimisation. `gamma`: by how much beta times the mean log-probabilities are to be apart."""

    beta: float = Field(2.0, gt=0)
    gamma: float = Field(0.5, ge=0)


class KtoSection(StageSection):
    """Kahneman-Tversky optimisation on labelled answers, under TRL's names; `precompute_ref_log_probs` as of dpo."""

    beta: float = Field(0.1, gt=0)
    desirable_weight: float = Field(1.0, gt=0)
    undesirable_weight: float = Field(1.0, gt=0)
    precompute_ref_log_probs: bool = False

    @property
    def held_out_scores(self) -> tuple[str, ...]:
        return ("desirable_margin",)


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
