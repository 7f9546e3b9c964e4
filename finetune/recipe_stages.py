"""The sections of single stages: a recipe may have that of its own stage, none of another's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from finetune.recipe import DataSection, TrainSection


class Section(BaseModel):
    """Frozen, no key beyond the declared ones, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StageSection(Section):
    """What is common to them.

    Attributes:
        answers: whether held-out prompts are answered and scored by the metric of the data.
        held_out_scores: names of the scores that the stage takes off the held-out loss (see stages/base.py), main first.
        explores: whether a step's batch is made anew, by the model itself, of the samples drawn for it.
        free: keys that say how a step is computed, not what: a run may resume with other ones.
    """

    answers: ClassVar[bool] = True
    explores: ClassVar[bool] = False
    free: ClassVar[frozenset[str]] = frozenset()

    @property
    def held_out_scores(self) -> tuple[str, ...]:
        return ()

    @property
    def sequences_per_sample(self) -> int:
        """How many sequences of `train.global_batch_size` a sample that is drawn becomes."""
        return 1

    def misfits(self, data: DataSection, train: TrainSection) -> list[str]:
        """What other sections ask for and this stage can't do or would leave without effect, one problem each."""
        return []


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
    """A reward model on preferences."""


class GrpoSection(StageSection):
    """Group relative policy optimisation: answers sampled from the model itself, better ones than their group's mean
    made likelier. Under the names of TRL's GRPOConfig.

    Attributes:
        rewards: name of a score of the data's metric, or `finished`, to its weight.
        num_generations: answers to a prompt, the group. `train.global_batch_size` counts answers.
        max_completion_length: tokens of an answer at most.
        rollout_batch_size: answers that a process generates at once; the run is the same up to rounding.
        num_iterations: optimizer steps on the same answers; the learning rate's step is one.
        epsilon, epsilon_high: how far a token's probability may move in them, down and up.
        beta: weight of the KL to the reference policy. use_bias_correction_kl: times the ratio (so unless false), whose
            gradient makes the KL's unbiased.
        loss_type: what is averaged: `dapo` tokens, `grpo` answers' means over their tokens, `dr_grpo` answers' sums
            over `max_completion_length`.
        scale_rewards: what centred rewards are divided by; see stages/group.py.
        engine: what generates: `transformers`, or `paged`, its continuous batching.
    """

    explores: ClassVar[bool] = True
    free: ClassVar[frozenset[str]] = frozenset({"rollout_batch_size"})

    rewards: dict[str, float] = Field(min_length=1)
    num_generations: int = Field(8, ge=2)
    max_completion_length: int = Field(256, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    rollout_batch_size: int = Field(32, ge=1)
    num_iterations: int = Field(1, ge=1)
    epsilon: float | None = Field(None, gt=0, lt=1)
    epsilon_high: float | None = Field(None, gt=0)
    beta: float = Field(0.0, ge=0)
    use_bias_correction_kl: bool | None = None
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    engine: Literal["transformers"] = "transformers"

    @model_validator(mode="after")
    def nothing_without_effect(self) -> GrpoSection:
        if self.use_bias_correction_kl is not None and not self.beta:
            raise ValueError("`use_bias_correction_kl` has no effect with `beta` 0: there is no KL in the loss")
        given = [name for name in ("epsilon", "epsilon_high") if getattr(self, name) is not None]
        if given and self.num_iterations == 1:
            raise ValueError(
                f"`{given[0]}` has no effect with `num_iterations` 1: the answers are the policy's own, so its ratio is 1"
            )
        return self

    @property
    def clip(self) -> tuple[float, float]:
        """epsilon (0.2 where not given) and epsilon_high (as epsilon)."""
        low = 0.2 if self.epsilon is None else self.epsilon
        return low, low if self.epsilon_high is None else self.epsilon_high

    @property
    def sequences_per_sample(self) -> int:
        return self.num_generations

    def misfits(self, data: DataSection, train: TrainSection) -> list[str]:
        found = []
        if train.global_batch_size % self.num_generations:
            found.append(
                f"train.global_batch_size: {train.global_batch_size} answers / {self.num_generations} of each prompt "
                f"(grpo.num_generations) = {train.global_batch_size / self.num_generations:.2f} prompts; use a multiple "
                f"of {self.num_generations}"
            )
        refused = {
            "data.packing": (data.packing, "the answers of a step are not known before; data.padding_free joins them"),
            "data.train_on": (data.train_on == "all", "the model's own answers are trained; leave it out"),
            "data.too_long": (data.too_long in ("split_turns", "truncate_prompt"), "use error or drop"),
            "train.eval_steps": (train.eval_steps > 0, "there is no held-out loss; the reward of each step is logged"),
            "train.auto_find_batch_size": (train.auto_find_batch_size, "set train.micro_batch_size"),
        }
        return found + [f"{key}: not with stage grpo: {why}" for key, (given, why) in refused.items() if given]


class TeacherSection(Section):
    """Which model teaches, in the words of the section `model`; its dtype is the run's unless given."""

    name_or_path: str
    revision: str | None = None
    gguf_file: str | None = None
    adapter_name_or_path: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    trust_remote_code: bool = False


class DistillSection(StageSection):
    """Distillation: the student's next-token distributions are drawn to a teacher's on the trained positions.

    Attributes:
        beta: 0 forward KL(teacher || student), 1 reverse KL(student || teacher), between them the generalised
            Jensen-Shannon divergence; see stages/divergence.py.
        temperature: of both distributions in the divergence.
        alpha: weight of the cross-entropy on the data's own tokens, 1 - alpha that of the divergence.
    """

    teacher: TeacherSection
    beta: float = Field(0.5, ge=0, le=1)
    temperature: float = Field(1.0, gt=0)
    alpha: float = Field(0.0, ge=0, le=1)


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
