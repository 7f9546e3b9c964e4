"""The sections of what a run hands over: the bundle, the engines it is for, and what its card says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from finetune.recipe_peft import Names
from finetune.recipe_stages import Section


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
