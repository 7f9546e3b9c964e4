"""The mini-run: what of a recipe is changed so that every device takes the same few steps, all in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.device import Device, attention_problem
from finetune.errors import RecipeError
from finetune.optimizer import OPTIMIZERS
from finetune.parity.look import ROWS
from finetune.recipe import Recipe
from finetune.recipe_evaluate import OPEN_GATE

SAME_ADAMW = ("adamw_torch_fused", "adamw_torch_npu_fused")  # other code for what adamw_torch computes


@dataclass(frozen=True)
class Shared:
    """What is the same on every device.

    Attributes:
        micro_batch: sequences of a forward pass.
        optim: the recipe's optimizer, or what stands in for it on all of them.
    """

    steps: int
    dtype: str
    micro_batch: int
    optim: str


def first_stage(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The part of a recipe that is compared, and what is left out.

    Raises:
        RecipeError: its batches are made on the device, by its own random numbers.
    """
    notes = []
    if recipe.stages:
        notes.append(
            f"of the chain only its first stage, {recipe.stages[0].name}: the others begin with what it trained"
        )
        recipe = recipe.stages[0]
    if recipe.settings.explores:
        raise RecipeError(
            f"stage: {recipe.stage}: the model samples its own answers, and devices draw other random numbers; compare "
            "them with a recipe of another stage on this base (sft)"
        )
    return recipe, notes


def shared_settings(recipe: Recipe, rows: Sequence[Device], steps: int, dtype: str | None) -> tuple[Shared, list[str]]:
    """Of devices, the reference first; and what is otherwise than in the recipe for their sake.

    Args:
        dtype: asked for on the command line.
    """
    notes, optim, whole = [], recipe.train.optim, recipe.train.global_batch_size
    lacking = [row.name for row in rows if row.name not in OPTIMIZERS[optim].devices]
    if lacking and optim not in SAME_ADAMW:
        notes.append(f"train.optim: {optim} is not for {lacking[0]}: adamw_torch on every device")
        optim = "adamw_torch"
    least = min(row.auto_micro_batch for row in rows)
    micro = recipe.train.micro_batch_size
    if micro is None:
        micro = next(size for size in range(min(whole, least), 0, -1) if whole % size == 0)
    return Shared(steps, _dtype(dtype or recipe.model.dtype, rows), micro, optim), notes


def _dtype(asked: str, rows: Sequence[Device]) -> str:
    """`auto`: what the devices under test would take. The reference computes in it too, however slowly."""
    if asked != "auto":
        return asked
    under_test = rows[1:] or rows
    return "bfloat16" if all(row.bfloat16() for row in under_test) else "float32"


def mini_recipe(recipe: Recipe, row: Device, shared: Shared, dtype: str, output: Path) -> tuple[Recipe, list[str]]:
    """The recipe that a device runs; what is otherwise than on the others."""
    notes = []
    told = _small(recipe, row, shared, dtype, output)
    told["mixture"] = tuple(_small(part, row, shared, dtype, output) | {"mixture": ()} for part in recipe.mixture)
    if told["model"]["attn_implementation"] != recipe.model.attn_implementation:
        notes.append(f"model.attn_implementation: {recipe.model.attn_implementation} is not for {row.name}: auto there")
    if told["train"]["optim"] != shared.optim:
        notes.append(f"train.optim: {shared.optim} is not for {row.name}: adamw_torch there, the same in other code")
    return Recipe.model_validate(told), notes


def _small(recipe: Recipe, row: Device, shared: Shared, dtype: str, output: Path) -> dict[str, Any]:
    told = recipe.model_dump(exclude={"stages", "mixture"})
    its, attention = recipe.train, recipe.model.attn_implementation
    here = row.name in OPTIMIZERS[shared.optim].devices
    told |= {"device": row.name, "output_dir": output, "report_to": ()}
    told["model"] |= {
        "dtype": dtype,
        "attn_implementation": "auto" if attention_problem(attention, row) else attention,
        # Of the CPU, which others are compared with, transformers' own modules, so that each is seen.
        "fused_ops": False if row.name == "cpu" else recipe.model.fused_ops,
    }
    told["data"] |= {"workers": 1}
    told["train"] |= {
        "max_steps": shared.steps,
        "num_train_epochs": None,
        "micro_batch_size": shared.micro_batch,
        "auto_find_batch_size": False,
        "optim": shared.optim if here else "adamw_torch",
        "optim_args": its.optim_args if here and shared.optim == its.optim else {},
        "warmup_steps": None if its.warmup_steps is None else min(its.warmup_steps, 1),
        "neftune_noise_alpha": None,  # random
        "torch_compile": False,
        "activation_offloading": its.activation_offloading and row.name != "cpu",
        "logging_steps": 1,
        "save_steps": 0,
        "eval_steps": 0,
        "load_best_model_at_end": False,
        "early_stopping_patience": None,
        "early_stopping_threshold": 0.0,
        "on_nonfinite": "stop",
    }
    told["gate"] |= OPEN_GATE
    told["export"] |= {"targets": (), "adapters": {}, "parity_rows": ROWS}
    return told
