"""Which trainable parameter has which learning rate and weight decay: the optimizer's parameter groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError
from finetune.optimizer import OPTIMIZERS

if TYPE_CHECKING:
    from torch import nn

    from finetune.recipe import TrainSection

LORA_B = re.compile(r"\.lora_B\.")
LORA_MATRIX = re.compile(r"\.lora_[AB]\.")
# Of two dimensions, perhaps, but no differences from the base's: (IA)^3's vectors, DoRA's magnitudes, vocabulary rows.
UNDECAYED = re.compile(r"magnitude|\.ia3_l\.|trainable_tokens_delta")
LAYER = re.compile(r"\.\d+\.")


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], section: TrainSection, down: Mapping[int, Any] | None = None
) -> list[dict[str, Any]]:
    """Groups as torch's optimizers take them, in the order in which their first parameters come.

    Beside torch's own keys a group has `peak` (its rate where the schedule is at its top), `label` (for the log; "" for
    those at `learning_rate`), `state` (what is kept of a parameter, see finetune/fullstate.py) and `down` (of each
    parameter what stands before it, see finetune/lora_fa.py; else None). Weight decay is for matrices: biases, norms,
    DoRA's magnitudes, the vectors of (IA)^3 and trained rows of the vocabulary have none.

    Args:
        named: trainable parameters by their names in the peft model.
        down: by the id of a lora_B, the frozen half before it.

    Raises:
        RecipeError: patterns of `train.lr_groups` that match nothing, with what is trained; names that several match;
            a LoRA+ ratio where no lora_B is trained.
    """
    parameters = list(named)
    if section.loraplus_lr_ratio != 1.0 and not any(LORA_B.search(name) for name, _ in parameters):
        raise RecipeError("train.loraplus_lr_ratio: no lora_B is trained by this adapter; leave it out")
    rates = _pattern_rates([name for name, _ in parameters], section.lr_groups)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in parameters:
        label, peak = rates.get(name) or _rate(name, section)
        decay = section.weight_decay if parameter.ndim > 1 and not UNDECAYED.search(name) else 0.0
        state = OPTIMIZERS[section.optim].state
        if state == "muon" and not (parameter.ndim == 2 and LORA_MATRIX.search(name)):
            state = "adamw"  # Muon is for hidden matrices; embeddings, heads and vectors are not
        new = {
            "params": [],
            "lr": peak,
            "weight_decay": decay,
            "peak": peak,
            "label": label,
            "state": state,
            "down": [],
        }
        group = groups.setdefault((label, decay, state), new)
        group["params"].append(parameter)
        group["down"].append((down or {}).get(id(parameter)))
    return list(groups.values())


def group_lines(groups: Iterable[dict[str, Any]]) -> list[str]:
    """What is said of the groups when there are several: how many tensors, at which rate and weight decay."""
    lines = [
        f"learning rate {group['peak']:.2e}, weight decay {group['weight_decay']:g}, {group['state']}: "
        f"{len(group['params'])} tensors{' matching ' + group['label'] if group['label'] else ''}"
        for group in groups
    ]
    return lines if len(lines) > 1 else []


def group_rates(groups: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The rates of groups that have one of their own, by the name they are logged under."""
    return {f"learning_rate/{group['label']}": group["lr"] for group in groups if group.get("label")}


def _rate(name: str, section: TrainSection) -> tuple[str, float]:
    """LoRA+ (arXiv 2402.12354): B learns at a multiple of A's rate."""
    if section.loraplus_lr_ratio != 1.0 and LORA_B.search(name):
        return "lora_B", section.learning_rate * section.loraplus_lr_ratio
    return "", section.learning_rate


def _pattern_rates(names: list[str], patterns: dict[str, float]) -> dict[str, tuple[str, float]]:
    matches = {pattern: [name for name in names if re.search(pattern, name)] for pattern in patterns}
    problems = [
        f"train.lr_groups: {pattern!r} matches nothing that is trained; trained are {', '.join(_kinds(names))}"
        for pattern, found in matches.items()
        if not found
    ]
    rates: dict[str, tuple[str, float]] = {}
    for pattern, found in matches.items():
        for name in found:
            if name in rates:
                problems.append(f"train.lr_groups: both {rates[name][0]!r} and {pattern!r} match {name}")
                break
            rates[name] = pattern, patterns[pattern]
    if problems:
        raise RecipeError(problems)
    return rates


def _kinds(names: list[str]) -> list[str]:
    """Names with the layers' numbers left out, each once."""
    return list(dict.fromkeys(LAYER.sub(".*.", name.removeprefix("base_model.model.")) for name in names))
