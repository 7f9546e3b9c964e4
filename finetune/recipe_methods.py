"""What a PEFT method can't have from the rest of the recipe, each a line with the key; no torch is needed to know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.recipe import Recipe


def method_problems(recipe: Recipe) -> list[str]:
    """Settings that have no effect under the recipe's `peft_type`, or can't work with it."""
    kind, train = recipe.peft_type, recipe.train
    if kind == "lora":
        return []
    problems = []
    if train.loraplus_lr_ratio != 1.0:
        problems.append(f"train.loraplus_lr_ratio: is the rate of LoRA's B over A's; {kind} has neither; leave it out")
    if train.optim == "muon":
        problems.append(f"train.optim: muon is for LoRA's matrices; {kind} trains none; take adamw_torch")
    return problems
