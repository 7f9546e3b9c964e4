"""What all peers have in common, whatever they call it: batch, length, precision, looks and checkpoints, adapters."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.migrate.draft import Draft
from finetune.recipe import TRACKERS

ATTENTION = {
    "auto": "auto", "eager": "eager", "sdpa": "sdpa", "flash_attention_2": "flash_attention_2", "fa2": "flash_attention_2",
    "disabled": "eager",
}  # fmt: skip
# Stages in which TRL's trainers switch all dropout off unless told otherwise.
QUIET = ("dpo", "orpo", "simpo", "kto", "reward")
NO_CLIPPING = 1e9
FULL = "all weights are trained there; here an adapter is"
# peft's own choice of layers by architecture, where it is another than that of most.
USUAL_TARGETS = ("q_proj", "v_proj")
TARGETS_OF = {
    "gpt2": ("c_attn",), "gpt_bigcode": ("c_attn",), "bloom": ("query_key_value",), "gpt_neox": ("query_key_value",),
    "chatglm": ("query_key_value",), "falcon": ("query_key_value",), "mpt": ("Wqkv",), "codegen": ("qkv_proj",),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"), "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
}  # fmt: skip


def set_batch(draft: Draft, micro: int, accumulation: int, keys: tuple[str, str]) -> None:
    """Their per-device batch × accumulation × processes is our global batch."""
    for key, value in zip(keys, (micro, accumulation), strict=True):
        if value < 1:
            draft.problem(key, f"a whole number from 1 on is needed, got {value}")
            return
    whole = micro * accumulation * draft.processes
    processes = "1 process" if draft.processes == 1 else f"{draft.processes} processes"
    draft.write("train.global_batch_size", whole, f"{micro} a device x {accumulation} accumulated x {processes}")
    draft.put("train.micro_batch_size", micro, keys[0])


def set_length(draft: Draft, steps: int | None, epochs: float, keys: tuple[str, str]) -> None:
    """`train.max_steps`, which goes before epochs with all peers, or `train.num_train_epochs`."""
    if steps is not None and steps > 0:
        draft.put("train.max_steps", steps, keys[0])
        if draft.values.get(keys[1]) is not None:
            draft.idle(keys[1], f"{keys[0]} goes before it")
    else:
        draft.put("train.num_train_epochs", epochs, keys[1])


def set_clipping(draft: Draft, norm: float, key: str) -> None:
    if norm > 0:
        draft.put("train.max_grad_norm", norm, key)
    else:
        draft.write("train.max_grad_norm", NO_CLIPPING, f"{key}: {norm:g}, no clipping")


def set_precision(draft: Draft, bf16: bool | None, fp16: bool, keys: tuple[str, str], plain: str = "auto") -> None:
    """`model.dtype`. `plain`: what it is where both are switched off."""
    if fp16 and not bf16:
        draft.lost(
            keys[1], "half precision needs a scaled loss, which is not here", "model.dtype: auto (bfloat16 or float32)"
        )
        draft.write("model.dtype", "auto", "fp16 there")
    elif bf16:
        draft.put("model.dtype", "bfloat16", keys[0])
    elif bf16 is None:
        draft.write("model.dtype", "auto", "bfloat16 where the device computes it well")
    else:
        draft.write("model.dtype", plain, f"{keys[0]}: false")


def set_attention(draft: Draft, key: str, name: str | None) -> None:
    if name is None:
        return
    if name in ATTENTION:
        draft.put("model.attn_implementation", ATTENTION[name], key)
    elif "flash" in name and "flex" not in name:
        draft.changed(key, "FlashAttention 2 is what a recipe can name; the numbers agree up to rounding")
        draft.put("model.attn_implementation", "flash_attention_2", key)
    else:
        draft.lost(key, "this attention is not here", "model.attn_implementation: auto")


def set_trackers(draft: Draft, names: Sequence[str], key: str) -> None:
    """`report_to`, of trackers that are here and installed."""
    taken = []
    for name in names:
        if name in ("none", ""):
            continue
        if name not in TRACKERS:
            draft.lost(key, f"{name} is no tracker of ours", f"report_to: one of {', '.join(TRACKERS)}")
        elif importlib.util.find_spec(name) is None:
            draft.lost(key, f"{name} is not installed here", f"pip install {name}, then report_to: [{name}]")
        else:
            taken.append(name)
    if taken:
        draft.put("report_to", taken, key)


def set_lora(draft: Draft, values: dict[str, Any], keys: dict[str, str], quiet: Sequence[str]) -> None:
    """The section `lora`.

    Args:
        values: settings under peft's names, None for none. keys: the peer's key of each.
        quiet: stages in which the peer switches all dropout off.
    """
    for name, value in values.items():
        if value is not None:
            draft.put(f"lora.{name}", value, keys.get(name, ""))
    if values.get("lora_dropout") and draft.recipe.get("stage") in quiet and draft.get("disable_dropout", True):
        draft.write("lora.lora_dropout", 0.0, f"{draft.peer} switches dropout off in this stage")
        draft.changed(
            keys["lora_dropout"], f"{draft.peer} switches all dropout off in stage {draft.recipe['stage']}: 0"
        )


def usual_targets(draft: Draft, key: str) -> tuple[str, ...]:
    """What peft takes where no layers are named; told, because it depends on the architecture."""
    kind = _architecture(str(draft.recipe.get("model.name_or_path", "")))
    targets = TARGETS_OF.get(kind, USUAL_TARGETS)
    if kind:
        draft.changed(key, f"names no layers; peft's own choice for {kind} is written down")
    else:
        draft.changed(
            key, "names no layers; written down is peft's own choice for Llama, Mistral, Qwen, Gemma: check it"
        )
    return targets


def _architecture(model: str) -> str:
    """`model_type` of a model in a folder on this machine; empty where it can't be told."""
    try:
        return str(json.loads((Path(model) / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def full_training(draft: Draft, key: str) -> None:
    """All weights are trained there: the nearest is LoRA on all linear layers, with our own settings."""
    draft.lost(key, FULL, "LoRA on all linear layers (r 16, alpha 32), which takes a rate some ten times higher")
    for name, value in (("r", 16), ("lora_alpha", 32), ("lora_dropout", 0.0), ("target_modules", "all-linear")):
        draft.write(f"lora.{name}", value, "of ours; all weights there")


def run_name(text: str) -> str:
    """A name that a recipe may have, out of a file's or folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-") or "imported"


def set_output(draft: Draft, folder: str, key: str) -> None:
    draft.put("output_dir", folder, key)
    if Path(folder).exists():
        draft.changed(key, "is there already, and a run does not write into a folder that is: give it another name")


def steps_of_epoch(draft: Draft, rows: int | None) -> int | None:
    """Optimizer steps of an epoch, where the rows can be counted and are not packed."""
    batch = draft.recipe.get("train.global_batch_size")
    if rows is None or batch is None or draft.recipe.get("data.packing"):
        return None
    return max(1, math.ceil(rows / batch))


def every(draft: Draft, target: str, key: str, value: float | None, rows: int | None, epochs: float = 1) -> int | None:
    """Steps between two looks or checkpoints. Below 1 it is a share of all steps, None an epoch's end.

    Args:
        epochs: of the run. rows: to train on, None where they can't be counted.
    """
    if value is not None and value >= 1:
        draft.put(target, int(value), key)
        return int(value)
    epoch = steps_of_epoch(draft, rows)
    total = draft.recipe.get("train.max_steps") or (epoch and epoch * epochs)
    steps = epoch if value is None else total and math.ceil(value * total)
    if steps is None:
        draft.lost(key, "epochs and shares of a run are told in steps here, and the rows can't be counted now", target)
        return None
    steps = max(1, int(steps))
    draft.write(target, steps, f"{key}: {'an epoch' if value is None else f'{value:g} of the steps'} of {rows} rows")
    return steps


def settle(draft: Draft) -> None:
    """What the peers allow together and a recipe does not: the one that changes no number gives way."""
    if draft.recipe.get("train.activation_offloading") and draft.recipe.pop("train.torch_compile", False):
        draft.lost(
            "torch_compile", "does not go together with activations kept in the host's memory", "leave one of them out"
        )
    if draft.recipe["stage"] != "sft" and draft.recipe.pop("sft.label_smoothing_factor", None):
        draft.lost("label_smoothing_factor", "is of stage sft here")
    if draft.recipe.get("data.packing") and draft.recipe.pop("data.padding_free", False):
        draft.idle("padding_free", "packed rows are without padding")
