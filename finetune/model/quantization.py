"""Bases in fewer bits: what quantises when loading, what a checkpoint on disk may be quantised with, and who can do it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.recipe_peft import PeftSection

KEY = "model.quantization"
# The words of lora.init_lora_weights that leave the base as it is: the others would have to change quantised weights.
INITS = ("true", "false", "gaussian", "orthogonal", "loftq")
LOFTQ = "loftq"
# Where peft does not find the scales (int8, once bitsandbytes has moved them) or does not look for them.
NO_DORA = ("int8", "gptq", "awq", "bitsandbytes")


@dataclass(frozen=True)
class Method:
    """A way to quantise linear layers while a base is loaded; the output layer and the embeddings stay as they are.

    Attributes:
        package: that has the kernels; installed under this very name.
        devices: where it runs. instead: what to do elsewhere.
        settings: what the manifest says of it: everything that the quantised values depend on.
    """

    package: str
    devices: tuple[str, ...]
    instead: str
    settings: Mapping[str, Any]


_NPU = "bitsandbytes has no kernels for it: use int8_weight_only, or no quantisation"
EVERYWHERE = ("cpu", "cuda", "npu")  # de-quantised and multiplied by torch's own operations
METHODS = {
    # QLoRA's: arXiv 2305.14314, section 3. bitsandbytes quantises the scales in turn, in blocks of 256.
    "nf4": Method("bitsandbytes", ("cpu", "cuda"), _NPU, {"bits": 4, "block": 64, "double_quant": True}),
    # LLM.int8(), arXiv 2208.07339: rows of weights by their largest value; outside training activations in int8 too.
    "int8": Method("bitsandbytes", ("cpu", "cuda"), _NPU, {"bits": 8, "by": "row", "threshold": 6.0}),
    "int8_weight_only": Method("torchao", EVERYWHERE, "", {"bits": 8, "by": "row"}),
    # Four-bit values, symmetric, one in a byte: torchao's Int4Tensor, which packs two, is refused by peft 0.21.
    "int4_weight_only": Method("torchao", EVERYWHERE, "", {"bits": 4, "block": 32}),
}
# A process of its own holds the whole base; FSDP2 and ZeRO would have to cut packed weights.
ENGINES = ("single", "ddp")


@dataclass(frozen=True)
class Stored:
    """A way in which the weights of a checkpoint may lie quantised on disk (config.json: quantization_config.quant_method).

    Attributes:
        packages: that transformers needs to load it. devices: where its kernels run.
    """

    packages: tuple[str, ...]
    devices: tuple[str, ...]


STORED = {
    "gptq": Stored(("gptqmodel", "optimum"), ("cpu", "cuda")),
    "awq": Stored(("gptqmodel",), ("cpu", "cuda")),
    "compressed-tensors": Stored(("compressed_tensors",), ("cpu", "cuda", "npu")),
    "torchao": Stored(("torchao",), ("cpu", "cuda")),
    "bitsandbytes": Stored(("bitsandbytes",), ("cpu", "cuda")),
}


def stored_method(config: Mapping[str, Any] | None) -> str | None:
    """How a checkpoint's weights are quantised, by its config.json; None where they are not."""
    said = (config or {}).get("quantization_config")
    if not said:
        return None
    if said.get("load_in_4bit") or said.get("load_in_8bit"):  # older folders leave quant_method out
        return "bitsandbytes"
    return str(said.get("quant_method", "of an unknown kind"))


def describe(method: str, config: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What manifest and checkpoint facts say of a base's quantisation; None where it has none.

    Args:
        method: of the recipe. config: the base's config.json; where it is quantised, that counts.
    """
    stored = stored_method(config)
    if stored is not None:
        assert config is not None
        return {"method": stored, "stored": True, "settings": dict(config["quantization_config"])}
    return None if method == "none" else {"method": method, "stored": False, "settings": dict(METHODS[method].settings)}


def plain_init(lora: PeftSection) -> PeftSection:
    """What peft is told: of LoftQ nothing, whose A and B are worked out here and belong to a plain adapter."""
    if str(lora.model_dump().get("init_lora_weights", True)).lower() != LOFTQ:
        return lora
    return lora.model_copy(update={"init_lora_weights": True})


def needs(packages: tuple[str, ...], what: str) -> list[str]:
    """A line for each package that is not installed, with how to get it."""
    return [
        f"{what}: the package {package} is needed; pip install {package.replace('_', '-')}"
        for package in packages
        if importlib.util.find_spec(package) is None
    ]


def quantization_problems(recipe: Recipe, config: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with a recipe's quantised base, known without torch.

    Args:
        config: the base's config.json; None where it is not at hand yet.
    """
    method, stored = recipe.model.quantization, stored_method(config)
    problems: list[str] = []
    if stored is not None:
        if stored not in STORED:
            return [
                f"model.name_or_path: its weights lie quantised with {stored!r}{did_you_mean(stored, STORED)}; for another "
                "kind take the original model, or a copy saved de-quantised"
            ]
        if method != "none":
            problems.append(f"{KEY}: {method!r}, but the base is quantised already ({stored}); leave it out")
        problems += needs(STORED[stored].packages, f"model.name_or_path: a base quantised with {stored}")
    elif method != "none":
        problems += needs((METHODS[method].package,), f"{KEY}: {method}")
        if recipe.model.gguf_file:
            problems.append(
                f"{KEY}: {method!r} with model.gguf_file: a GGUF is de-quantised into a plain folder first; train once "
                "without it, then name that run's folder `base` as model.name_or_path"
            )
    quantised = stored or (method if method != "none" else None)
    if quantised and recipe.device != "auto":
        problems += device_problems(quantised, stored is not None, recipe.device)
    if stored and recipe.export.merge_into == "original":
        problems.append(
            f"export.merge_into: original: the base lies quantised ({stored}); leave it out, and afterwards: finetune export "
            "RUN --merge-into original --base ORIGINAL"
        )
    if recipe.export.merge_into == "dequantised" and quantised is None and config is not None:
        problems.append("export.merge_into: dequantised: the base is not quantised; leave it out")
    return problems + _lora_problems(recipe, quantised)


def device_problems(method: str, stored: bool, device: str) -> list[str]:
    """A line where the method does not run on the device."""
    row = STORED[method] if stored else METHODS[method]
    if device in row.devices:
        return []
    instead = (
        row.instead if isinstance(row, Method) else f"take the original model; it runs on {', '.join(row.devices)}"
    )
    return [f"{'model.name_or_path' if stored else KEY}: {method} does not run on {device}; {instead}"]


def _lora_problems(recipe: Recipe, quantised: str | None) -> list[str]:
    """Settings of the adapter that need weights in full precision, or weights in four bits."""
    settings, problems = recipe.adapter.model_dump(), []
    if quantised is not None and recipe.peft_type != "lora":
        problems.append(f"peft_type: {recipe.peft_type}: a quantised base ({quantised}) is trained with lora")
        return problems
    init = str(settings.get("init_lora_weights", True)).lower()
    if init == LOFTQ and quantised != "nf4":
        problems.append(
            f"lora.init_lora_weights: loftq makes up for what nf4 loses; this base is {quantised or 'not quantised'}: "
            f"set {KEY}: nf4, or init_lora_weights: true"
        )
    if quantised is None:
        return problems
    if init not in INITS:
        fix = "loftq, which is made for it" if quantised == "nf4" else "true"
        problems.append(
            f"lora.init_lora_weights: {init} needs the base's weights in full precision, this base is {quantised}; set {fix}"
        )
    if settings.get("target_parameters"):
        problems.append("lora.target_parameters: not on a quantised base; name modules in lora.target_modules")
    if settings.get("use_dora") and quantised in NO_DORA:
        problems.append(f"lora.use_dora: reads the norms of weights, which peft 0.21 can't on {quantised}; take nf4")
    if recipe.train.torch_compile:
        problems.append("train.torch_compile: not with a quantised base; set it to false")
    return problems


def check_quantization(quantization: Mapping[str, Any], device: str, engine: str) -> None:
    """Once device and engine are known.

    Raises:
        RecipeError: the method does not run there.
    """
    method, stored = quantization["method"], quantization["stored"]
    problems = device_problems(method, stored, device)
    if engine not in ENGINES:
        problems.append(
            f"{'model.name_or_path' if stored else KEY}: {method}: {engine} would have to cut packed weights; launch "
            "without sharding (ddp: every process holds the whole quantised base)"
        )
    if problems:
        raise RecipeError(problems)
