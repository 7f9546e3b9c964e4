"""LoRA-FA (arXiv 2308.03303): lora_A stays as it is, and lora_B's gradient is turned into the nearest of full training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from finetune.errors import RecipeError

DAMPING = 1e-8  # peft's: keeps A A^T invertible where rows of A depend on each other


class Down(NamedTuple):
    """What stands before a lora_B: A (r, in), and the scale s of W + s B A."""

    weight: nn.Parameter
    scale: float


def freeze_down_halves(model: nn.Module) -> None:
    """No gradient for any lora_A; a backward pass then keeps no input of a LoRA layer (with dropout, its mask only).

    Raises:
        RecipeError: an adapter on an embedding, where A is the half that starts at 0.
    """
    for name, parameter in model.named_parameters():
        if ".lora_embedding_A." in name:
            layer = name.rpartition(".lora_embedding_A")[0].removeprefix("base_model.model.")
            raise RecipeError(
                f"train.optim: lora_fa freezes lora_A, which on an embedding is the half that starts at 0 ({layer}); "
                "leave it out of lora.target_modules, or use adamw_torch"
            )
        if ".lora_A." in name:
            parameter.requires_grad_(False)


def down_halves(model: nn.Module) -> dict[int, Down]:
    """The frozen half before each lora_B's weight, by the id of that parameter."""
    return {id(up): Down(down, scale) for up, down, scale in _pairs(model)}


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter, float]]:
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        for adapter, half in layer.lora_A.items():
            if not half.weight.requires_grad:
                yield layer.lora_B[adapter].weight, half.weight, layer.scaling[adapter]


class LoraFA(torch.optim.AdamW):
    """AdamW whose groups may have `down`: of each parameter what stands before it, or None.

    With W = s B A and the loss's gradient G (out, in), g_B = s G A^T. The step of B that comes nearest to a step of W,
    min over g of |s g A - G|, is g = (1 / s^2) g_B (A A^T)^-1 (the paper's gradient, as peft's LoraFAOptimizer has it).
    AdamW here is torch's; peft's adds epsilon before it corrects the second moment's bias, and decays after the step.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **settings)
        self._inverses: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the gradients of lora_B are changed in place."""
        for group in self.param_groups:
            for parameter, down in zip(group["params"], group["down"], strict=True):
                if down is not None and parameter.grad is not None:
                    parameter.grad.copy_(parameter.grad @ self._inverse(down).to(parameter.grad.device))  # (out, r)
        return super().step(closure)

    def _inverse(self, down: Down) -> torch.Tensor:
        """(1 / s^2) (A A^T)^-1, (r, r), in float32; A does not change, so it is made once, the same on every device."""
        if id(down.weight) not in self._inverses:
            a = down.weight.detach().cpu().double()
            square = a @ a.T + DAMPING * torch.eye(len(a), dtype=a.dtype)
            self._inverses[id(down.weight)] = (torch.linalg.inv(square) / down.scale**2).float()
        return self._inverses[id(down.weight)]
