"""The sections of the PEFT methods: a recipe has that of its own `peft_type`, none of another's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from finetune.lora_fields import LORA_ROWS, conflicts
from finetune.peft_fields import COMMON, Problem, Row, problems_of
from finetune.peft_source import fields_of
from finetune.recipe_stages import Section

Names = Annotated[tuple[str, ...], Field(strict=False)]  # a YAML list of words


class PeftSection(Section):
    """Settings under peft's own names; what is not declared here passes through to peft's configuration.

    Attributes:
        kind: the section's name, peft's own for the method in small letters.
        config: class in the installed peft that these are fields of. file: where its source stands in the package.
        rows: our own answers to its fields, beside those that are declared.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, defer_build=True)

    kind: ClassVar[str]
    config: ClassVar[str]
    file: ClassVar[str]
    rows: ClassVar[Mapping[str, Row]] = COMMON

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for peft's configuration; what a recipe sets to null has peft's default."""
        told = {key: value for key, value in self.model_dump().items() if value is not None}
        if isinstance(told.get("layers_to_transform"), int):  # peft 0.20 takes the number 0 for none
            told["layers_to_transform"] = [told["layers_to_transform"]]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}

    def conflicts(self) -> list[Problem]:
        """Settings that are right each by itself and don't go together."""
        return []


class LoraSection(PeftSection):
    """LoRA; every other field of `peft.LoraConfig` passes through."""

    kind = "lora"
    config = "LoraConfig"
    file = "tuners/lora/config.py"
    rows = LORA_ROWS

    r: int = Field(16, ge=1)
    lora_alpha: int | float = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    target_modules: str | Names = "all-linear"

    def conflicts(self) -> list[Problem]:
        return conflicts(self.settings())


class Ia3Section(PeftSection):
    """(IA)^3, arXiv 2205.05638; every other field of `peft.IA3Config` passes through.

    Left out, the targets are those of peft's own tables for the base's architecture: keys and values, and the input of
    the feed-forward's last layer.
    """

    kind = "ia3"
    config = "IA3Config"
    file = "tuners/ia3/config.py"

    target_modules: str | Names | None = None
    feedforward_modules: str | Names | None = None

    @model_validator(mode="after")
    def inputs_of_targets(self) -> Ia3Section:
        inner, targets = self.feedforward_modules, self.target_modules
        if isinstance(inner, tuple) and isinstance(targets, tuple) and not set(inner) <= set(targets):
            raise ValueError(
                f"`feedforward_modules`: {', '.join(sorted(set(inner) - set(targets)))} is not among `target_modules`"
            )
        return self


class OftSection(PeftSection):
    """Orthogonal fine-tuning, arXiv 2306.07280 and 2506.19847; every other field of `peft.OFTConfig` passes through.

    A layer's inputs are turned block by block: `r` blocks, or as many as `oft_block_size` makes; the other one is 0.
    """

    kind = "oft"
    config = "OFTConfig"
    file = "tuners/oft/config.py"
    rows = COMMON | {"module_dropout": Row("peft 0.20 and 0.21 have it and never apply it; leave it out")}

    r: int = Field(0, ge=0)
    oft_block_size: int = Field(32, ge=0)
    target_modules: str | Names = "all-linear"
    bias: Literal["none"] = "none"
    coft: bool = False
    eps: float = Field(6e-5, gt=0)
    block_share: bool = False
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: int = Field(5, ge=2)  # of one term nothing is trained

    @model_validator(mode="before")
    @classmethod
    def blocks_by_number(cls, data: Any) -> Any:
        """`r` alone is enough."""
        if isinstance(data, dict) and data.get("r") and "oft_block_size" not in data:
            return data | {"oft_block_size": 0}
        return data

    @model_validator(mode="after")
    def blocks_by_number_or_size(self) -> OftSection:
        if (self.r == 0) == (self.oft_block_size == 0):
            raise ValueError(
                f"give exactly one of `r` ({self.r}: how many blocks) and `oft_block_size` ({self.oft_block_size}), the "
                "other as 0: together they are the width of a layer"
            )
        return self


class VeraSection(PeftSection):
    """VeRA, arXiv 2310.11454; every other field of `peft.VeraConfig` passes through.

    `projection_prng_key` draws the frozen A and B that all layers share; `save_projection` puts them into the adapter's
    file, so that no other machine has to draw the same.
    """

    kind = "vera"
    config = "VeraConfig"
    file = "tuners/vera/config.py"

    r: int = Field(256, ge=1)
    target_modules: str | Names = "all-linear"
    vera_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    d_initial: float = Field(0.1, gt=0)
    projection_prng_key: int = Field(0, ge=0)
    save_projection: bool = True
    bias: Literal["none"] = "none"


class PromptSection(PeftSection):
    """What the methods with virtual tokens share; they train nothing inside the model."""

    rows = COMMON | {
        "modules_to_save": Row("a model with virtual tokens trains nothing else"),
        "num_transformer_submodules": Row("a causal model has one; leave it out"),
        **dict.fromkeys(("token_dim", "num_attention_heads", "num_layers"), Row("is read off the base; leave it out")),
    }

    num_virtual_tokens: int = Field(20, ge=1)


class PromptTuningSection(PromptSection):
    """Prompt tuning, arXiv 2104.08691; every other field of `peft.PromptTuningConfig` passes through.

    `prompt_tuning_init`: embeddings of random words of the vocabulary, of `prompt_tuning_init_text`, or random numbers.
    """

    kind = "prompt_tuning"
    config = "PromptTuningConfig"
    file = "tuners/prompt_tuning/config.py"

    prompt_tuning_init: Literal["SAMPLE_VOCAB", "TEXT", "RANDOM"] = "SAMPLE_VOCAB"
    prompt_tuning_init_text: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def text_for_text(self) -> PromptTuningSection:
        if (self.prompt_tuning_init == "TEXT") != (self.prompt_tuning_init_text is not None):
            raise ValueError("`prompt_tuning_init: TEXT` and `prompt_tuning_init_text` go together")
        return self


class PrefixTuningSection(PromptSection):
    """Prefix tuning, arXiv 2101.00190; every other field of `peft.PrefixTuningConfig` passes through."""

    kind = "prefix_tuning"
    config = "PrefixTuningConfig"
    file = "tuners/prefix_tuning/config.py"
    rows = PromptSection.rows | {
        "prefix_projection": Row("peft saves what it gives and not the projection, so that no run could be resumed"),
        "encoder_hidden_size": Row("is the projection's width, and `prefix_projection` is not supported"),
    }

    init_weights: Literal["zero"] | None = None


PEFT_SECTIONS: dict[str, type[PeftSection]] = {
    section.kind: section
    for section in (LoraSection, Ia3Section, OftSection, VeraSection, PromptTuningSection, PrefixTuningSection)
}
PROMPTED = (PromptTuningSection.kind, PrefixTuningSection.kind)  # virtual tokens before the prompt, nothing in layers


def config_fields(section: type[PeftSection]) -> frozenset[str]:
    """Field names of the installed peft's configuration class, read from its source: checking a recipe needs no torch."""
    return frozenset(fields_of(section.file, section.config))


def section_problems(section: type[PeftSection], given: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with a recipe's section beyond its declared fields, which pydantic checks: each with the key's path."""
    passed = {key: value for key, value in given.items() if key not in section.model_fields}
    return problems_of(passed, fields_of(section.file, section.config), section.rows, section.config)
