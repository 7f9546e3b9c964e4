"""A recipe's sections: what every key may hold and its default. Frozen; nothing beyond the declared keys."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from finetune.device import DEVICES, attention_problem
from finetune.errors import did_you_mean
from finetune.lora_fields import lora_fa_problems, under_a_score_head
from finetune.optimizer import OPTIMIZERS
from finetune.recipe_data import DataSection
from finetune.recipe_harness import LmEvalSection, VllmSection
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


class EvaluateSection(Section):
    """Greedy answers to the held-out rows, base and tuned, scored by the data template's metric.

    `engine`: what answers. `lm_eval`: further tasks, asked and scored by lm-eval.
    """

    rows: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    max_new_tokens: int = Field(256, ge=1)
    engine: Literal["transformers", "vllm"] = "transformers"
    vllm: VllmSection = VllmSection()  # type: ignore[call-arg]
    lm_eval: LmEvalSection | None = None


class GateSection(Section):
    """Least scores of the tuned model; below one of them nothing is exported.

    `confident`: the lower end of the 95 % interval counts, of a score and of what it is better by.
    """

    min: dict[str, float] = Field(default_factory=dict)
    better_than_base: bool = True
    confident: bool = False


class TargetSection(Section):
    """An engine to serve with. A plain string in the recipe stands for `{engine: ...}`.

    `form`: what is served, the merged model or the adapter on its base. `types`: GGUF or engine precisions, as
    `[f16, q8_0]`; empty takes the engine's usual one. `converter`: folder of llama.cpp's convert_*.py scripts.
    """

    engine: Literal[
        "transformers",
        "vllm",
        "vllm-ascend",
        "mindie",
        "sglang",
        "tgi",
        "llama.cpp",
        "ollama",
        "openvino",
        "onnxruntime",
    ]
    form: Literal["merged", "adapter"] = "merged"
    types: Names = ()
    converter: Path | None = Field(None, strict=False)


class ExportSection(Section):
    """The bundle. `dtype: auto` is the dtype the base was trained in; `targets` are the engines it gets files for.

    `parity_rows`: held-out conversations that merged = adapter is proved on. `golden_rows`: held-out prompts that go
    along with their answers, for `finetune verify`: they are rows of your data. `adapters`: name to folder of further
    adapters of the same base, to be served beside this one. `merge_into`: of an adapter on a quantised base, the base as
    quantisation left it (auto: there), or the original one.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    merge_into: Literal["auto", "dequantised", "original"] = "auto"
    max_shard_size: str = Field("5GB", pattern=r"^[0-9]+(\.[0-9]+)?(KB|MB|GB)$")
    parity_rows: int = Field(8, ge=1)
    golden_rows: int = Field(32, ge=1)
    targets: Annotated[tuple[TargetSection, ...], Field(strict=False)] = ()
    adapters: dict[str, Annotated[Path, Field(strict=False)]] = Field(default_factory=dict)


class CardSection(Section):
    """What only a person can say of the model, for the bundle's model card. `licence`: of the tuned model."""

    intended_use: str | None = None
    limits: str | None = None
    licence: str | None = None
    language: Names = ()


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
