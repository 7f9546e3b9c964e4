"""A recipe made small: what `finetune smoke` changes in it, all in one place, and what it says of that."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.recipe_evaluate import OPEN_GATE
from finetune.recipe_train import device_problems

STEPS, ANSWERS, TOKENS = 3, 2, 8  # optimizer steps, answers to a prompt (grpo), tokens of an answer
PACKED = 4096  # tokens of a packed row at most
OTHER_LAYERS = "the tiny base has other layers"
NUMBERED = re.compile(r"(^|[.(\[|])\d")  # a layer's number in a name or a pattern: layers.20, layers\.(1[0-9]|2)
RANK = 8  # of an adapter at most: initialisations from a decomposition need matrices that have it

Keys = dict[str, Any]  # of a recipe, section by section, as pydantic dumps it


@dataclass(frozen=True)
class Small:
    """The small recipe, and what of the user's it leaves out or changes that changes what is tested; a line each."""

    recipe: Recipe
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Tiny:
    """What stands in: the tiny base's folder, a tiny teacher's for stages that need one, the device to run on, and how
    many tokens the base's tokenizer may take for one of the real one (1 where it is that)."""

    base: Path
    teacher: Path | None
    device: str
    tokens: int = 1


def small_recipe(recipe: Recipe, tiny: Tiny, folder: Path) -> Small:
    """The same run in a few steps on the tiny base; the run's folder is `folder`/run."""
    notes: dict[str, None] = {}
    told = _small(recipe, tiny, folder / "run", notes)
    for key in ("stages", "mixture"):
        told[key] = tuple(
            _small(part, tiny, folder / "run" / part.output_dir.relative_to(recipe.output_dir), notes)
            for part in getattr(recipe, key)
        )
    if recipe.mixture:
        told["train"] |= {"global_batch_size": _mixed_batch(recipe), "micro_batch_size": None}
        told["mixture"] = tuple(part | {"train": told["train"]} for part in told["mixture"])
    return Small(Recipe.model_validate(told), tuple(notes))


def _small(recipe: Recipe, tiny: Tiny, output: Path, notes: dict[str, None]) -> Keys:
    told = recipe.model_dump(exclude={"stages", "mixture"})
    for key, (value, why) in _changes(recipe, tiny).items():
        section, _, last = key.rpartition(".")
        place = told[section] if section else told
        if place.get(last) != value:
            if why and place.get(last):
                notes[f"{key}: {_short(place[last])} left out: {why}"] = None
            place[last] = value
    told["device"], told["output_dir"] = tiny.device, output
    told["model"]["name_or_path"] = str(tiny.base)
    if told.get("distill"):
        left = told["distill"]["teacher"].get("adapter_name_or_path")
        if left:
            notes[f"distill.teacher.adapter_name_or_path: {left} left out: it is not of the tiny teacher's shape"] = (
                None
            )
        told["distill"]["teacher"] = {"name_or_path": str(tiny.teacher)}
    if told.get("grpo"):
        told["grpo"] |= {"num_generations": ANSWERS, "max_completion_length": TOKENS}
    return told


def _changes(recipe: Recipe, tiny: Tiny) -> Mapping[str, tuple[Any, str]]:
    """Key to its value, and why it is said when it replaces one that was set. The one place of such keys."""
    device, length = tiny.device, recipe.data.max_length
    its, kind, adapter = recipe.train, recipe.peft_type, recipe.adapter.model_dump()
    slow = [key for key in device_problems(its, device) if key.startswith("train.optim")]
    own = device != "cpu" or recipe.model.attn_implementation in ("eager", "sdpa")
    decided: dict[str, tuple[Any, str]] = {
        "report_to": ((), "nothing is sent to trackers"),
        "model.gguf_file": (None, ""),
        "model.revision": (None, ""),
        "model.tokenizer_name_or_path": (None, ""),
        "model.adapter_name_or_path": (None, "it is not of the tiny base's shape"),
        "model.dtype": ("float32", ""),
        "model.attn_implementation": (recipe.model.attn_implementation if own else "auto", "not on cpu"),
        "data.max_length": ((min(length, PACKED) if recipe.data.packing else length) * tiny.tokens, ""),
        "data.workers": (1, ""),
        "train.max_steps": (STEPS, ""),
        "train.num_train_epochs": (None, ""),
        "train.global_batch_size": (min(its.global_batch_size, 4) // 2 * 2 or 1, ""),
        "train.micro_batch_size": (2 if its.global_batch_size > 1 else 1, ""),
        "train.auto_find_batch_size": (False, ""),
        "train.torch_compile": (False, "compiling takes longer than the run"),
        "train.activation_offloading": (its.activation_offloading and device != "cpu", "not on cpu"),
        "train.warmup_steps": (None if its.warmup_steps is None else min(its.warmup_steps, 1), ""),
        "train.logging_steps": (1, ""),
        "train.save_steps": (1, ""),
        "train.save_total_limit": (STEPS, ""),
        "train.eval_steps": (1 if its.eval_steps else 0, ""),
        "train.early_stopping_patience": (None, "three steps are too few to stop early"),
        "train.early_stopping_threshold": (0.0, ""),
        "evaluate.rows": (None, ""),
        "evaluate.max_new_tokens": (TOKENS, ""),
        "evaluate.previous": (None, ""),
        "evaluate.engine": ("transformers", ""),
        "evaluate.lm_eval": (None, "benchmarks say nothing of random weights"),
        **{f"gate.{key}": (value, "") for key, value in OPEN_GATE.items()},
        "export.dtype": ("auto", ""),  # that of the base
        "export.parity_rows": (1, ""),
        "export.targets": ((), "its files are made of the real model"),
        "export.adapters": ({}, "they are not of the tiny base's shape"),
    }
    if slow:
        decided |= {"train.optim": ("adamw_torch", f"not on {device}"), "train.optim_args": ({}, "")}
    if recipe.model.quantization != "none":
        decided["model.quantization"] = ("none", "random weights are not worth quantising")
        if adapter.get("init_lora_weights") == "loftq":
            decided["lora.init_lora_weights"] = (True, "the tiny base is not quantised")
    groups = _unnumbered(its.lr_groups)
    return decided | {"train.lr_groups": (groups, OTHER_LAYERS)} | _of_adapter(kind, adapter)


def _of_adapter(kind: str, settings: Keys) -> dict[str, tuple[Any, str]]:
    """The adapter's settings for a model of other layers: those that name some by number are left out or widened."""
    decided: dict[str, tuple[Any, str]] = {}
    for key, value in settings.items():
        if key == "r" and isinstance(value, int):
            decided[f"{kind}.r"] = (min(value, RANK), "")
        elif key in ("layers_to_transform", "layers_pattern") and value is not None:
            decided[f"{kind}.{key}"] = (None, OTHER_LAYERS)
        elif key in ("rank_pattern", "alpha_pattern", "exclude_modules") and value:
            decided[f"{kind}.{key}"] = (_unnumbered(value) or None, OTHER_LAYERS)
        elif key in ("target_modules", "target_parameters") and isinstance(value, list | tuple):
            parts = 1 if key == "target_modules" else 2  # a layer's own name; of a parameter that of its module too
            ends = [".".join(name.split(".")[-parts:]) if NUMBERED.search(name) else name for name in value]
            decided[f"{kind}.{key}"] = (type(value)(dict.fromkeys(ends)), OTHER_LAYERS)
        elif key == "target_modules" and isinstance(value, str) and NUMBERED.search(value):
            decided[f"{kind}.{key}"] = ("all-linear", OTHER_LAYERS)
    return decided


def _unnumbered(given: Any) -> Any:
    """Of names or patterns those that name no layer by number."""
    if isinstance(given, str):
        return None if NUMBERED.search(given) else given
    if isinstance(given, Mapping):
        return {name: value for name, value in given.items() if not NUMBERED.search(name)}
    return type(given)(name for name in given if not NUMBERED.search(name))


def _mixed_batch(recipe: Recipe) -> int:
    """A batch in which every part has an item, if eighteen are enough for that."""
    weights = [part.weight or 1.0 for part in recipe.mixture]
    return min(recipe.train.global_batch_size, 18, math.ceil(sum(weights) / min(weights)))


def _short(value: Any) -> str:
    text = ", ".join(str(item["engine"]) for item in value) if isinstance(value, tuple) and value and isinstance(
        value[0], dict) else str(value)  # fmt: skip
    return text if len(text) <= 60 else f"{text[:57]}..."


def device_of(recipe: Recipe, available: Callable[[str], bool]) -> str:
    """The device to run on: the recipe's, or the first there is under `auto`.

    Raises:
        RecipeError: it is not to be had here, with the way on.
    """
    if recipe.device == "auto":
        return next(kind for kind in ("npu", "cuda", "cpu") if available(kind))
    if not available(recipe.device):
        raise RecipeError(f"device: {recipe.device!r} is not to be had on this machine; add --set device=cpu")
    return recipe.device
