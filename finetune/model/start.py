"""Going on with an adapter that was trained before: of an earlier stage, or made elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.errors import CheckpointError, RecipeError
from finetune.export.canon import residual_init
from finetune.model.adapter import SCORE
from finetune.model.save import INITIAL

KEY = "model.adapter_name_or_path"
# What an adapter's config says that does not change what its weights mean.
FREE = frozenset({
    "base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping", "lora_dropout",
    "init_lora_weights", "runtime_config", "peft_type", "task_type", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "megatron_config", "megatron_core", "layers_to_transform", "layers_pattern", "exclude_modules",
    "init_weights", "init_ia3_weights", "vera_dropout", "d_initial", "module_dropout",
    "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs",
})  # fmt: skip


def start_from(model: Any, folder: Path, base: str) -> str:
    """The weights of the adapter in `folder` into a fresh peft model of the same shape; a line that says so.

    Args:
        base: what the run's base is called; the line tells of an adapter that names another (it may be a copy of it).

    Raises:
        RecipeError: no such adapter, one with another method or other settings than the recipe's (each with both values), or one
            that belongs to a base which its initialisation has changed.
    """
    file = folder / "adapter_config.json"
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{KEY}: no adapter in {folder}: {error}") from None
    own = model.peft_config["default"]
    init = getattr(own, "init_lora_weights", True)
    if residual_init(init) or (folder / INITIAL).exists():
        raise RecipeError(
            f"{KEY}: with init_lora_weights {init!r} an adapter belongs to a base that was changed for it; start from the "
            "adapter of its bundle, with lora.init_lora_weights: true"
        )
    # A reward model from a language model's adapter:
    new_head = _plain(own.task_type) == "SEQ_CLS" != told.get("task_type")
    check_same_settings(told, own, folder, FREE | {"modules_to_save"} if new_head else FREE)
    from finetune.checkpoint.training import load_weights

    try:
        load_weights(model, folder, may_lack={f"base_model.model.{SCORE}.weight"} if new_head else ())
    except CheckpointError as error:
        raise RecipeError([f"{KEY}: {problem}" for problem in error.problems]) from None
    named = told.get("base_model_name_or_path")
    other = f"; it names the base {named}, this run has {base}" if named and named != base else ""
    return f"starting from the adapter in {folder}{', under a new score head' if new_head else ''}{other}"


def check_same_settings(told: dict[str, Any], own: Any, folder: Path, free: frozenset[str] = FREE) -> None:
    """Raises RecipeError for an adapter with another method or other settings than a peft model's, each with both values.

    Args:
        told: its adapter_config.json. own: the peft model's configuration. folder: where it lies.
        free: settings that may differ.
    """
    now = {key: _plain(value) for key, value in own.to_dict().items()}
    kind = str(now["peft_type"]).lower()
    if told.get("peft_type") != now["peft_type"]:
        raise RecipeError(
            f"{KEY}: peft_type: {kind}, but the adapter in {folder} is {str(told.get('peft_type')).lower()}; set peft_type"
        )
    problems = [
        f"{kind}.{key}: {now[key]!r}, but the adapter in {folder} has {_plain(told[key])!r}"
        for key in sorted(now.keys() & told.keys() - free)
        if _plain(told[key]) != now[key]
    ]
    if problems:
        raise RecipeError(problems)


def _plain(value: Any) -> Any:
    """As JSON would give it back; an empty dict or list is none, the order of names does not matter."""
    if isinstance(value, set | list | tuple):
        value = sorted(str(item) for item in value)
    return getattr(value, "value", value) or None
