"""A recipe's sections: what every key may hold and its default. Frozen; nothing beyond the declared keys."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from finetune.device import DEVICES, attention_problem
from finetune.errors import did_you_mean
from finetune.lora_fields import lora_fa_problems, under_a_score_head
from finetune.optimizer import OPTIMIZERS
from finetune.recipe_data import DataSection
from finetune.recipe_evaluate import EvaluateSection, GateSection
from finetune.recipe_export import CardSection, ExportSection
from finetune.recipe_methods import method_problems
from finetune.recipe_peft import (
    PEFT_SECTIONS,
    Ia3Section,
    LoraSection,
    Names,
    OftSection,
    PeftSection,
    PrefixTuningSection,
    PromptTuningSection,
    VeraSection,
)
from finetune.recipe_stages import (
    STAGE_SECTIONS,
    CptSection,
    DistillSection,
    DpoSection,
    GrpoSection,
    KtoSection,
    OrpoSection,
    RewardSection,
    Section,
    SftSection,
    SimpoSection,
    StageSection,
)
from finetune.recipe_train import TrainSection, device_problems
from finetune.tokenlist import clashes, word_problem

TRACKERS = ("tensorboard", "wandb", "swanlab", "trackio")


class ModelSection(Section):
    """Which base model. `name_or_path`: hub id, local folder, or `pkg:NAME` for files inside an installed package.

    `adapter_name_or_path`: folder of a PEFT adapter of this base to go on training; `lora:` must say what it is.
    `add_tokens`: words that become tokens of their own, or a file of them, one a line; their rows are trained.
    `quantization`: of the linear layers while loading, a row of finetune/model/quantization.py.
    `fused_ops`: those of the device that agree with the model's plain ones; false: none.
    """

    name_or_path: str
    revision: str | None = None
    gguf_file: str | None = None
    tokenizer_name_or_path: str | None = None
    adapter_name_or_path: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attn_implementation: str = "auto"
    fused_ops: Literal["auto", False] = "auto"
    trust_remote_code: bool = False
    quantization: Literal["none", "nf4", "int8", "int8_weight_only", "int4_weight_only"] = "none"
    add_tokens: Names = ()

    @field_validator("add_tokens")
    @classmethod
    def words_that_can_be_tokens(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        problems = [problem for word in words if (problem := word_problem(word))]
        problems += [f"{word!r} is listed twice" for word in dict.fromkeys(words) if words.count(word) > 1]
        if problems:
            raise ValueError("; ".join(problems))
        return words


class Recipe(Section):
    """A whole run. See docs/recipe.md for every key.

    `full_determinism`: only kernels that give the same bits each time, slower; an operation without one stops the run.
    `stages`: of a chain, the recipe of each; `stage`, `data`, `train` and the adapter's section are those of the last then.
    `continue_from`: within a chain, whether a stage goes on training the last one's adapter, or a fresh one on the
    model that it was merged into.
    `mixture`: of several stages in one run, the recipe of each, with its `weight` (share of the items of a batch) and
    `loss_weight`; `stage` and `data` are those of the first then.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    stage: Literal["cpt", "sft", "dpo", "orpo", "simpo", "kto", "reward", "grpo", "distill"] = "sft"
    seed: int = Field(0, ge=0)
    full_determinism: bool = False
    device: Literal["auto", "cpu", "cuda", "npu"] = "auto"
    output_dir: Path = Field(strict=False)
    report_to: Names = ()
    model: ModelSection
    peft_type: Literal["lora", "ia3", "oft", "vera", "prompt_tuning", "prefix_tuning"] = (
        "lora"  # the rows of PEFT_SECTIONS
    )
    lora: LoraSection | None = None
    ia3: Ia3Section | None = None
    oft: OftSection | None = None
    vera: VeraSection | None = None
    prompt_tuning: PromptTuningSection | None = None
    prefix_tuning: PrefixTuningSection | None = None
    data: DataSection
    train: TrainSection
    cpt: CptSection | None = None
    sft: SftSection | None = None
    dpo: DpoSection | None = None
    orpo: OrpoSection | None = None
    simpo: SimpoSection | None = None
    kto: KtoSection | None = None
    reward: RewardSection | None = None
    grpo: GrpoSection | None = None
    distill: DistillSection | None = None
    evaluate: EvaluateSection = EvaluateSection()  # type: ignore[call-arg]
    gate: GateSection = GateSection()
    export: ExportSection = ExportSection()  # type: ignore[call-arg]
    card: CardSection = CardSection()
    continue_from: Literal["adapter", "merged"] | None = None
    stages: tuple[Recipe, ...] = ()
    weight: float | None = Field(None, gt=0)
    loss_weight: float = Field(1.0, gt=0)
    mixture: tuple[Recipe, ...] = ()

    @property
    def settings(self) -> StageSection:
        """The section of this recipe's stage, its defaults where it is left out."""
        return getattr(self, self.stage) or STAGE_SECTIONS[self.stage]()

    @property
    def adapter(self) -> PeftSection:
        """The section of this recipe's PEFT method, its defaults where it is left out."""
        return getattr(self, self.peft_type)

    @model_validator(mode="before")
    @classmethod
    def its_own_sections_are_there(cls, data: Any) -> Any:
        """Left out, they hold their defaults, so that a recipe and its resolved form are equal."""
        if not isinstance(data, dict):
            return data
        kind, stage = str(data.get("peft_type", "lora")), str(data.get("stage", "sft"))
        filled: dict[str, Any] = {kind: {}} if kind in PEFT_SECTIONS and data.get(kind) is None else {}
        fields = STAGE_SECTIONS[stage].model_fields if stage in STAGE_SECTIONS else {}
        if fields and data.get(stage) is None and not any(field.is_required() for field in fields.values()):
            filled[stage] = {}
        return data | filled

    @model_validator(mode="after")
    def only_its_own_adapter(self) -> Recipe:
        for kind in PEFT_SECTIONS:
            if kind != self.peft_type and getattr(self, kind) is not None:
                raise ValueError(
                    f"{kind}: is for peft_type {kind}; this recipe's peft_type is {self.peft_type}; leave it out, or set "
                    f"`{kind}: null` where a parent has it"
                )
        return self

    @model_validator(mode="after")
    def fits_its_method(self) -> Recipe:
        problems = method_problems(self)
        if OPTIMIZERS[self.train.optim].freezes_down:
            problems += lora_fa_problems(self.peft_type, self.adapter.settings())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def only_its_own_stage(self) -> Recipe:
        for stage in STAGE_SECTIONS:
            if stage != self.stage and getattr(self, stage) is not None:
                raise ValueError(f"{stage}: is for stage {stage}; this recipe's stage is {self.stage}")
        return self

    @model_validator(mode="after")
    def token_rows_are_trained_once(self) -> Recipe:
        given = self.adapter.model_dump()
        problems = clashes(self.model.add_tokens, given)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def it_fits_the_device(self) -> Recipe:
        """Under `auto` only what no device has; the rest once the device is known."""
        attention, problems = self.model.attn_implementation, []
        if self.device != "auto":
            problems = [attention_problem(attention, DEVICES[self.device]), *device_problems(self.train, self.device)]
        elif attention != "auto" and not any(attention in row.attention for row in DEVICES.values()):
            words = list(dict.fromkeys(word for row in DEVICES.values() for word in row.attention))
            close = did_you_mean(attention, ["auto", *words])
            problems = [f"model.attn_implementation: {attention!r} is none that a device has{close}"]
        problems = [problem for problem in problems if problem]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def fits_its_stage(self) -> Recipe:
        needed = [key for key, field in STAGE_SECTIONS[self.stage].model_fields.items() if field.is_required()]
        if needed and getattr(self, self.stage) is None:
            raise ValueError(f"{self.stage}: is missing: {', '.join(f'{self.stage}.{key}' for key in needed)}")
        problems = self.settings.misfits(self.data, self.train)
        if self.settings.score_names and self.peft_type == "lora":
            problems += under_a_score_head(self.adapter.settings())
        if self.data.too_long == "split" and self.stage != "cpt":
            problems.append(f"data.too_long: split is for documents (stage cpt); stage {self.stage} has none")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def previous_is_there_to_be_compared_with(self) -> Recipe:
        if self.evaluate.previous is None and self.gate.of_previous:
            keys = " and ".join(self.gate.of_previous)
            raise ValueError(f"{keys}: there is no `evaluate.previous` to compare with")
        return self

    @model_validator(mode="after")
    def trackers_are_known(self) -> Recipe:
        for tracker in self.report_to:
            if tracker not in TRACKERS:
                raise ValueError(f"report_to: {tracker!r} is not a tracker{did_you_mean(tracker, TRACKERS)}")
            if importlib.util.find_spec(tracker) is None:
                raise ValueError(f"report_to: the package {tracker!r} is not installed; pip install {tracker}")
        return self


# What a stage of a chain says for itself; everything else is the whole chain's.
OF_ONE_STAGE = ("name", "stage", "continue_from", "peft_type", *PEFT_SECTIONS, "data", "train", *STAGE_SECTIONS)

# What a part of a mixture says for itself.
OF_ONE_PART = ("name", "stage", "weight", "loss_weight", "data", *STAGE_SECTIONS)
# Stages that may be parts: each trains a language model on rows that are there before training.
IN_MIXTURES = ("cpt", "sft", "dpo", "orpo", "simpo", "kto", "distill")


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default filled in, as plain values that YAML and JSON can hold; `load_recipe` reads it."""
    told = {key: value for key, value in recipe.model_dump(mode="json").items() if value is not None}
    stages, mixture = told.pop("stages"), told.pop("mixture")
    if recipe.weight is None:
        del told["loss_weight"]
    if not stages and not mixture:
        return told
    own = OF_ONE_STAGE if stages else OF_ONE_PART
    whole = {key: value for key, value in told.items() if key == "name" or key not in own}
    parts = [{key: part[key] for key in own if key in part} for part in map(resolved, recipe.stages or recipe.mixture)]
    for part in parts:
        part["name"] = part["name"].removeprefix(f"{told['name']}.")
    return whole | {"stages" if stages else "mixture": parts}
