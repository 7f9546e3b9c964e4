"""The sections of single stages: a recipe may have that of its own stage, none of another's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from finetune.recipe import TrainSection
    from finetune.recipe_data import DataSection

AspectName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """Frozen, no key beyond the declared ones, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class StageSection(Section):
    """What is common to them.

    Attributes:
        answers: whether held-out prompts are answered and scored by the metric of the data.
        held_out_scores: names of the scores that the stage takes off the held-out loss (see stages/base.py), main first.
        score_names: names of the numbers that a score head gives, where the stage trains one instead of a language model.
        explores: whether a step's batch is made anew, by the model itself, of the samples drawn for it.
    """

    answers: ClassVar[bool] = True
    explores: ClassVar[bool] = False

    @property
    def precomputes_reference(self) -> bool:
        """Whether the reference's log-probabilities are computed once before training."""
        return getattr(self, "precompute_ref_log_probs", False)

    @property
    def held_out_scores(self) -> tuple[str, ...]:
        return ()

    @property
    def score_names(self) -> tuple[str, ...]:
        return ()

    @property
    def free(self) -> frozenset[str]:
        """Keys that say how a step is computed, not what: a run may resume with other ones."""
        return frozenset()

    @property
    def sequences_per_sample(self) -> int:
        """How many sequences of `train.global_batch_size` a sample that is drawn becomes."""
        return 1

    def misfits(self, data: DataSection, train: TrainSection) -> list[str]:
        """What other sections ask for and this stage can't do or would leave without effect, one problem each."""
        return []


class ComparingSection(StageSection):
    """What the stages that compare answers have in common: each with its prompt, in a row of its own."""

    too_long: ClassVar[tuple[str, ...]] = ("error", "drop")  # cut for one answer, a prompt would be another one

    def misfits(self, data: DataSection, train: TrainSection) -> list[str]:
        found = [f"{key}: answers are compared, a row each; set it to false" for key in data.joined_by]
        if data.train_on == "all":
            found.append("data.train_on: all: answers are compared, not prompts; use assistant")
        if data.too_long not in self.too_long:
            found.append(f"data.too_long: {data.too_long}: answers are compared; use {' or '.join(self.too_long)}")
        return found


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

    def misfits(self, data: DataSection, train: TrainSection) -> list[str]:
        found = []
        if data.too_long in ("split_turns", "truncate_prompt"):
            found.append(f"data.too_long: {data.too_long} is for conversations; stage cpt takes error, drop or split")
        if data.train_on != "assistant":
            found.append(f"data.train_on: {data.train_on}: has no effect in stage cpt, which trains on every token")
        return found

    @model_validator(mode="after")
    def only_where_it_acts(self) -> CptSection:
        for key in ("fim_spm_rate", "fim_seed"):
            if not self.fim_rate and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` has no effect without `fim_rate`")
        return self


class SftSection(StageSection):
    """Supervised fine-tuning on conversations.

    `label_smoothing_factor`: the share of the target's probability that training spreads over the whole vocabulary.
    """

    label_smoothing_factor: Annotated[float, Field(ge=0, lt=1)] = 0.0


class PairSection(ComparingSection):
    """What the stages on preference pairs have in common.

    `prefix_sharing`: what both answers begin with is computed once, where the model is shown to give the same so.
    """

    prefix_sharing: bool = True

    @property
    def free(self) -> frozenset[str]:
        return frozenset({"prefix_sharing"})

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


class KtoSection(ComparingSection):
    """Kahneman-Tversky optimisation on labelled answers, under TRL's names; `precompute_ref_log_probs` as of dpo."""

    too_long: ClassVar[tuple[str, ...]] = ("error", "drop", "truncate_prompt")

    beta: float = Field(0.1, gt=0)
    desirable_weight: float = Field(1.0, gt=0)
    undesirable_weight: float = Field(1.0, gt=0)
    precompute_ref_log_probs: bool = False

    @property
    def held_out_scores(self) -> tuple[str, ...]:
        return ("desirable_margin",)


class RewardSection(ComparingSection):
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
    def score_names(self) -> tuple[str, ...]:
        return tuple(self.aspects) or ("reward",)


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
        engine: what generates: `transformers`, or `paged`, its continuous batching, whose answers are others on another
            number of processes.
    """

    explores: ClassVar[bool] = True

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
    engine: Literal["transformers", "paged"] = "transformers"

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
    def free(self) -> frozenset[str]:
        return frozenset() if self.engine == "paged" else frozenset({"rollout_batch_size"})

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
            "train.auto_find_batch_size": (train.auto_find_batch_size, "set train.micro_batch_size"),
            "train.torch_compile": (
                train.torch_compile and self.engine == "paged",
                "the engine paged runs the layers in a thread of its own; set one of them otherwise",
            ),
            "train.neftune_noise_alpha": (train.neftune_noise_alpha is not None, "answers are drawn without noise"),
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
