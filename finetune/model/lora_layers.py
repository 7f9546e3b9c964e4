"""Which modules of a model the products of lora_product.py and lora_mlp.py stand for, and how they compare with them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from finetune.model.agreement import Difference, compare
from finetune.model.fusible import Form, as_in_training, drawn, probe_input
from finetune.model.lora_mlp import mlp
from finetune.model.lora_product import fits, is_frozen_linear, is_on, lora_forward, weights_of


def sizes(module: Any) -> str:
    """Of a LoRA layer, for people."""
    return f"{module.in_features} to {module.out_features}"


def layer_difference(module: Any, device: torch.device) -> Difference:
    """Of a LoRA layer's product to peft's forward: outputs, gradients of the input and of A and B."""
    probe = _probe(module, device)
    x = drawn((2, 4, module.in_features), device, torch.float32, 3)
    return compare(probe, functools.partial(lora_forward, probe), [x], _trained(probe))


def are_layers_of(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether the MLP's layers by these names are LoRA layers of the plain kind, or frozen linear ones; not all the latter."""
    children = [getattr(module, name) for name in names]
    return any(map(fits, children)) and all(fits(child) or is_frozen_linear(child) for child in children)


def mlp_forward(names: Sequence[str]) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """The MLP of layers gate, up and down by these names."""

    def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
        return mlp(x, *(weights_of(getattr(module, name)) for name in names))

    return forward


def mlp_is_on(names: Sequence[str]) -> Callable[[Any], bool]:
    """Whether the adapters of its LoRA layers count at the moment."""

    def on(module: Any) -> bool:
        layers = (getattr(module, name) for name in names)
        return all(isinstance(layer, nn.Linear) or is_on(layer) for layer in layers)

    return on


def mlp_difference(module: nn.Module, form: Form, device: torch.device) -> Difference:
    """Of an MLP as one function to the module: outputs, gradients of the input and of each A and B."""
    probe = _probe(module, device)
    with as_in_training(probe):
        x = probe_input(probe, form, device, torch.float32)
        return compare(probe, functools.partial(mlp_forward(form.layers), probe), [x], _trained(probe))


def _probe(module: nn.Module, device: torch.device) -> Any:
    """A copy on the device, in float32, whose adapters say something (a fresh B is all zeros).

    What is compared is the formula: how it rounds in half precision is that of other products in another order.
    """
    probe = copy.deepcopy(module).to(device).float()
    with torch.no_grad():
        for name, parameter in probe.named_parameters():
            if "lora_B" in name:
                parameter.copy_(drawn(parameter.shape, device, parameter.dtype, 8) * 0.1)
    return probe


def _trained(module: nn.Module) -> list[torch.Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
