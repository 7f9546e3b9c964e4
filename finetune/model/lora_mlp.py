"""A gated MLP with LoRA on its layers as one function with its backward written by hand.

down(act(gate(x)) * up(x)): of what autograd would keep, silu(gate) and the product are computed again from gate and up, and
the input's gradient is summed where it lies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from finetune.model.lora_product import Weights, compute_dtype, product, slopes


class _Mlp(torch.autograd.Function):
    """Tensors of the layers gate, up and down as (weight, bias, down, up) each; their factors in `scaling`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scaling: tuple[float, float, float], *tensors: Any) -> torch.Tensor:
        ctx.form, ctx.given, ctx.scaling = x.shape[:-1], x.dtype, scaling
        layers = _layers(tensors, scaling)
        x = x.to(compute_dtype(x)).reshape(-1, x.shape[-1])
        (gate, thin_gate), (up, thin_up) = product(x, layers[0]), product(x, layers[1])
        y, thin_down = product(F.silu(gate).mul_(up), layers[2])
        trains = any(layer.down is not None and layer.down.requires_grad for layer in layers[:2])
        ctx.save_for_backward(x if trains else None, gate, up, thin_gate, thin_up, thin_down, *tensors)
        return y.view(*ctx.form, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, gate, up, thin_gate, thin_up, thin_down, *tensors = ctx.saved_tensors
        layers, wanted = _layers(tensors, ctx.scaling), ctx.needs_input_grad[0]
        dy = dy.to(gate.dtype).reshape(-1, dy.shape[-1])
        silu = F.silu(gate)
        act = silu * up if _trains(layers[2]) else None
        dact, *ddown = slopes(dy, act, thin_down, layers[2])
        assert dact is not None
        del act
        dup = silu.mul_(dact)
        dgate = torch.ops.aten.silu_backward(dact.mul_(up), gate)
        dx, *dof_gate = slopes(dgate, x if _trains(layers[0]) else None, thin_gate, layers[0], None, wanted)
        dx, *dof_up = slopes(dup, x if _trains(layers[1]) else None, thin_up, layers[1], dx, wanted)
        dx = dx.view(*ctx.form, -1).to(ctx.given) if dx is not None else None
        grads = [None, None, *dof_gate, None, None, *dof_up, None, None, *ddown]
        return dx, None, *grads


def _layers(tensors: Any, scaling: tuple[float, float, float]) -> list[Weights]:
    return [Weights(*tensors[4 * index : 4 * index + 4], scaling[index]) for index in range(3)]


def _trains(layer: Weights) -> bool:
    return layer.down is not None and layer.down.requires_grad


def mlp(x: torch.Tensor, gate: Weights, up: Weights, down: Weights) -> torch.Tensor:
    """down(silu(gate(x)) up(x)) of x (..., D)."""
    layers = (gate, up, down)
    tensors = [tensor for layer in layers for tensor in layer[:4]]
    return _Mlp.apply(x, tuple(layer.scaling for layer in layers), *tensors)
