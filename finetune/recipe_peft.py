"""The sections of the PEFT methods: a recipe has that of its own `peft_type`, none of another's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from finetune.lora_fields import LORA_ROWS, conflicts
from finetune.peft_fields import COMMON, Problem, Row, fields_of, problems_of
from finetune.recipe_stages import Section

Names = Annotated[tuple[str, ...], Field(strict=False)]  # a YAML list of words


class PeftSection(Section):
    """Settings under peft's own names; what is not declared here passes through to peft's configuration.

    Attributes:
        kind: the section's name, peft's own for the method in small letters.
        config: class in the installed peft that these are fields of. file: where its source stands in the package.
        rows: our own answers to its fields, beside those that are declared.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    kind: ClassVar[str]
    config: ClassVar[str]
    file: ClassVar[str]
    rows: ClassVar[Mapping[str, Row]] = COMMON

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for peft's configuration; what a recipe sets to null has peft's default."""
        told = {key: value for key, value in self.model_dump().items() if value is not None}
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

    def settings(self) -> dict[str, Any]:
        told = super().settings()
        if isinstance(told.get("layers_to_transform"), int):  # peft 0.20 takes the number 0 for none
            told["layers_to_transform"] = [told["layers_to_transform"]]
        return told

    def conflicts(self) -> list[Problem]:
        return conflicts(self.settings())


PEFT_SECTIONS: dict[str, type[PeftSection]] = {section.kind: section for section in (LoraSection,)}


def config_fields(section: type[PeftSection]) -> frozenset[str]:
    """Field names of the installed peft's configuration class, read from its source: checking a recipe needs no torch."""
    return frozenset(fields_of(section.file, section.config))


def section_problems(section: type[PeftSection], given: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with a recipe's section beyond its declared fields, which pydantic checks: each with the key's path."""
    passed = {key: value for key, value in given.items() if key not in section.model_fields}
    return problems_of(passed, fields_of(section.file, section.config), section.rows, section.config)
