"""What depends on how accelerate spreads the model over processes: whole weights and whole optimizer state, by name.

Names are those of the peft model's parameters (`base_model....lora_A.default.weight`), whatever wraps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from finetune.checkpoint import tensors


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trained parameters of a wrapped peft model, in the order in which an optimizer was given them."""
    return {
        name[name.find("base_model.") :]: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def full_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every trained parameter whole; call on all processes."""
    return {name: parameter.detach() for name, parameter in trainable(model).items()}


def full_optimizer(model: torch.nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """AdamW's state whole: `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`, copies on the CPU; call on all processes."""
    return tensors.optimizer_tensors(optimizer, list(trainable(model)))


def load_optimizer(model: torch.nn.Module, optimizer: Any, state: Mapping[str, torch.Tensor]) -> None:
    """The inverse of `full_optimizer`.

    Raises:
        CheckpointError: names or shapes are not those of these parameters; nothing is changed.
    """
    tensors.load_optimizer(optimizer, list(trainable(model)), dict(state))
