"""What a PEFT method can't have from the rest of the recipe, each a line with the key; no torch is needed to know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune.recipe_peft import PROMPTED

if TYPE_CHECKING:
    from finetune.recipe import Recipe


def method_problems(recipe: Recipe) -> list[str]:
    """Settings that have no effect under the recipe's `peft_type`, or can't work with it."""
    kind, train = recipe.peft_type, recipe.train
    if kind == "lora":
        return []
    problems = []
    if recipe.model.add_tokens:
        problems.append(f"model.add_tokens: rows of single tokens are trained beside lora only, not {kind}; take lora")
    if train.loraplus_lr_ratio != 1.0:
        problems.append(f"train.loraplus_lr_ratio: is the rate of LoRA's B over A's; {kind} has neither; leave it out")
    if train.optim == "muon":
        problems.append(f"train.optim: muon is for LoRA's matrices; {kind} trains none; take adamw_torch")
    if recipe.export.adapters and kind != "vera":  # which becomes LoRA
        problems.append(f"export.adapters: engines serve several LoRA adapters on one base; this run's is {kind}")
    if recipe.grpo is not None and recipe.grpo.engine == "paged":
        problems.append(f"grpo.engine: paged was tried with LoRA only, not with {kind}; take transformers")
    return problems + (_prompted_problems(recipe) if kind in PROMPTED else [])


def _prompted_problems(recipe: Recipe) -> list[str]:
    """What virtual tokens before the first position of a row keep from working."""
    kind, train, data = recipe.peft_type, recipe.train, recipe.data
    problems = [
        f"{key}: with {kind} the documents of a row would share the virtual tokens of the first; set it to false"
        for key in data.joined_by
    ]
    if train.torch_compile:
        problems.append(f"train.torch_compile: not with {kind}; set it to false")
    if kind == "prefix_tuning" and train.gradient_checkpointing:
        problems.append(
            "train.gradient_checkpointing: a prefix is a cache, which checkpointed layers ignore; set it to false"
        )
    if recipe.settings.score_names:
        problems.append(
            f"stage {recipe.stage}: a score head reads a merged model, and {kind} is never merged; take lora"
        )
    if recipe.export.dtype != "auto":
        problems.append(f"export.dtype: nothing is merged with {kind}; leave it out")
    return problems


def room_problem(recipe: Recipe, base: Mapping[str, Any] | None) -> list[str]:
    """Virtual tokens, which this recipe trains, take positions of the base's context.

    Args:
        base: the base's config.json, where it is at hand.
    """
    if base is None:
        return []
    text = base.get("text_config") or base
    context = next((text[key] for key in ("max_position_embeddings", "n_positions") if text.get(key)), None)
    count, longest = recipe.adapter.model_dump()["num_virtual_tokens"], recipe.data.max_length
    if context is None or longest + count <= context:
        return []
    return [
        f"data.max_length: {longest} and {count} virtual tokens are more than the base's {context} positions; at most "
        f"{context - count}"
    ]
