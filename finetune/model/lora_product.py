"""A LoRA layer of peft as one product with its backward written by hand: x W^T + s (x A^T) B^T.

Autograd's own chain casts A and B to the compute dtype and back around each of four products, keeps the base's output beside the
sum, and adds them in passes of their own. Here the wide product is added onto the thin one where it lies, and the sum is rounded
once. In half precision the other order loses a young adapter: x W^T is rounded first, and what is less than half of its last bit
changes nothing when it is added (docs/experiments.md has numbers).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Weights(NamedTuple):
    """Of a linear layer with LoRA, or without: then the last three are None, None and 0.

    Attributes:
        weight: (O, D) and bias (O,), both frozen. down: (r, D). up: (O, r).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    down: torch.Tensor | None
    up: torch.Tensor | None
    scaling: float


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """What a product of x is computed in here."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and x.dtype != torch.float64 else x.dtype


def product(x: torch.Tensor, layer: Weights) -> tuple[torch.Tensor, torch.Tensor | None]:
    """y (N, O) of x (N, D), and s x A^T (N, r)."""
    weight, bias = layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype)
    if layer.down is None or layer.up is None:
        return F.linear(x, weight, bias), None
    thin = (x @ layer.down.to(x.dtype).t()).mul_(layer.scaling)
    y = (thin @ layer.up.to(x.dtype).t()).addmm_(x, weight.t())
    return y if bias is None else y.add_(bias), thin


def slopes(
    dy: torch.Tensor, thin: torch.Tensor | None, layer: Weights
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """dt = s dy B (N, r), and dB = dy^T (s x A^T), from dy (N, O); None where there is no LoRA.

    Args:
        thin: s x A^T.
    """
    if layer.down is None or layer.up is None or thin is None:
        return None, None
    return (dy @ layer.up.to(dy.dtype)).mul_(layer.scaling), (dy.t() @ thin).to(layer.up.dtype)


def input_slope(*parts: tuple[torch.Tensor, torch.Tensor | None, Weights]) -> torch.Tensor:
    """dx (N, D): the sum of dt A and dy W over the layers that read x, the thin products first.

    Args:
        parts: dy (N, O), dt (N, r) or None, and the layer.
    """
    terms = [(dthin, layer.down) for _, dthin, layer in parts if dthin is not None and layer.down is not None]
    terms += [(dy, layer.weight) for dy, _, layer in parts]
    (first, matrix), *others = terms
    dx = first @ matrix.to(first.dtype)
    for left, matrix in others:
        dx.addmm_(left, matrix.to(left.dtype))
    return dx


def down_slope(dthin: torch.Tensor | None, x: torch.Tensor | None, layer: Weights) -> torch.Tensor | None:
    """dA = dt^T x, where A trains."""
    if dthin is None or x is None or layer.down is None or not layer.down.requires_grad:
        return None
    return (dthin.t() @ x).to(layer.down.dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        ctx.form, ctx.given, ctx.scaling = x.shape[:-1], x.dtype, scaling
        x = x.to(compute_dtype(x)).reshape(-1, x.shape[-1])
        y, thin = product(x, Weights(weight, bias, down, up, scaling))
        ctx.save_for_backward(x if down.requires_grad else None, thin, weight, down, up)
        return y.view(*ctx.form, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, thin, weight, down, up = ctx.saved_tensors
        layer = Weights(weight, None, down, up, ctx.scaling)
        dy = dy.to(thin.dtype).reshape(-1, dy.shape[-1])
        dthin, dup = slopes(dy, thin, layer)
        dx = input_slope((dy, dthin, layer)).view(*ctx.form, -1).to(ctx.given) if ctx.needs_input_grad[0] else None
        return dx, None, None, down_slope(dthin, x, layer), dup, None


def lora_forward(module: Any, x: torch.Tensor) -> torch.Tensor:
    """What a `fits` module computes of x (..., D)."""
    return _Product.apply(x, *weights_of(module))


def weights_of(module: Any) -> Weights:
    """Of a layer that `fits` or `is_frozen_linear`."""
    if isinstance(module, nn.Linear):
        return Weights(module.weight, module.bias, None, None, 0.0)
    base, name = module.base_layer, module.active_adapters[0]
    return Weights(
        base.weight, base.bias, module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name])
    )


def is_frozen_linear(module: nn.Module) -> bool:
    """A plain linear layer, nothing of it trained."""
    return type(module) is nn.Linear and not any(parameter.requires_grad for parameter in module.parameters())


def fits(module: Any) -> bool:
    """Whether it is a LoRA layer of the plain kind, as it stands: a frozen base, one adapter that is on, no dropout.

    Nothing is assumed of what it computes: it is compared before it is used (see fused.py).
    """
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or not is_frozen_linear(module.base_layer) or module.fan_in_fan_out:
        return False
    names = [name for name in module.active_adapters if name in module.lora_A]
    if len(names) != 1 or module.active_adapters != names or module.lora_variant or module.merged:
        return False
    name = names[0]
    thin = (module.lora_A[name], module.lora_B[name])
    plain = all(type(part) is nn.Linear and part.bias is None for part in thin)
    return plain and type(module.lora_dropout[name]) is nn.Identity and "forward" not in vars(module)


def is_on(module: Any) -> bool:
    """Whether the adapter counts at the moment: not switched off for the base's answers, not merged."""
    return not module.disable_adapters and not module.merged
