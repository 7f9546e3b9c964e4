"""The sections of the PEFT methods: a recipe has that of its own `peft_type`, none of another's."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from finetune.errors import RecipeError
from finetune.recipe_stages import Section

Names = Annotated[tuple[str, ...], Field(strict=False)]  # a YAML list of words


class PeftSection(Section):
    """Settings under peft's own names; what is not declared here passes through to peft's configuration.

    Attributes:
        kind: the section's name, peft's own for the method in small letters.
        config: class in the installed peft that these are fields of. file: where its source stands in the package.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    kind: ClassVar[str]
    config: ClassVar[str]
    file: ClassVar[str]

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


PEFT_SECTIONS: dict[str, type[PeftSection]] = {section.kind: section for section in (LoraSection,)}


@cache
def config_fields(section: type[PeftSection]) -> frozenset[str]:
    """Field names of the installed peft's configuration class, read from its source: checking a recipe needs no torch."""
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        raise RecipeError("the package peft is not installed; pip install peft")
    source = Path(spec.origin).parent / section.file
    tree = ast.parse(source.read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == section.config)
    return frozenset(node.target.id for node in body if isinstance(node, ast.AnnAssign) and hasattr(node.target, "id"))
