"""The sections of the PEFT methods: a recipe has that of its own `peft_type`, none of another's."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from finetune.errors import RecipeError
from finetune.recipe_stages import Section

Names = Annotated[tuple[str, ...], Field(strict=False)]  # a YAML list of words


class PeftSection(Section):
    """Settings under peft's own names; what is not declared here passes through to peft's configuration.

    Attributes:
        kind: the section's name, peft's own for the method in small letters.
        config: class in the installed peft that these are fields of. file: where its source stands in the package.
        inherits: classes of peft/config.py whose fields it has as well.
        refused: fields of it that are not taken, with the reason.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    kind: ClassVar[str]
    config: ClassVar[str]
    file: ClassVar[str]
    inherits: ClassVar[tuple[str, ...]] = ()
    refused: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="after")
    def takes_none_of_the_refused(self) -> PeftSection:
        problems = [f"`{key}`: {why}" for key, why in self.refused.items() if self.model_dump().get(key)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for peft's configuration."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self.model_dump().items()}


class LoraSection(PeftSection):
    """LoRA; every other field of `peft.LoraConfig` passes through."""

    kind = "lora"
    config = "LoraConfig"
    file = "tuners/lora/config.py"

    r: int = Field(16, ge=1)
    lora_alpha: int | float = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    target_modules: str | Names = "all-linear"


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
    refused: ClassVar[Mapping[str, str]] = {
        "module_dropout": "peft 0.20 and 0.21 have it and never apply it; leave it out"
    }

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

    inherits = ("PromptLearningConfig",)
    refused: ClassVar[Mapping[str, str]] = {
        "modules_to_save": "a model with virtual tokens trains nothing else",
        "num_transformer_submodules": "a causal model has one; leave it out",
        **dict.fromkeys(("token_dim", "num_layers", "num_attention_heads"), "is the base's; leave it out"),
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
    refused: ClassVar[Mapping[str, str]] = {
        **PromptSection.refused,
        "prefix_projection": "peft saves what the projection gives and not the projection, so that no run could be resumed",
        "encoder_hidden_size": "is the projection's width, and `prefix_projection` is not supported",
    }

    init_weights: Literal["zero"] | None = None


PEFT_SECTIONS: dict[str, type[PeftSection]] = {
    section.kind: section
    for section in (LoraSection, Ia3Section, OftSection, VeraSection, PromptTuningSection, PrefixTuningSection)
}
PROMPTED = (PromptTuningSection.kind, PrefixTuningSection.kind)  # virtual tokens before the prompt, nothing in layers


@cache
def config_fields(section: type[PeftSection]) -> frozenset[str]:
    """Field names of the installed peft's configuration class, read from its source: checking a recipe needs no torch."""
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        raise RecipeError("the package peft is not installed; pip install peft")
    package = Path(spec.origin).parent
    places = [(section.file, section.config), *(("config.py", name) for name in section.inherits)]
    return frozenset().union(*(_fields(package / file, name) for file, name in places))


def _fields(file: Path, name: str) -> frozenset[str]:
    """The fields that a class in a source file declares itself."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return frozenset(node.target.id for node in body if isinstance(node, ast.AnnAssign) and hasattr(node.target, "id"))
