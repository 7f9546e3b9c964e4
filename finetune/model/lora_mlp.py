"""A gated MLP with LoRA on its layers as one function with its backward written by hand.

down(act(gate(x)) * up(x)): of what autograd would keep, silu(gate) and the product are computed again from gate and up, and
the input's gradient is summed where it lies. In half precision gate and up are computed again from x too: they are the widest
tensors of a layer, and two products of a CPU with instructions for bfloat16 cost a few hundredths of its step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from finetune.device.elementwise import gated, gated_slopes
from finetune.model.lora_product import Weights, compute_dtype, down_slope, input_slope, product, slopes

AGAIN = (torch.bfloat16, torch.float16)  # dtypes in which gate and up are not kept


class _Mlp(torch.autograd.Function):
    """Tensors of the layers gate, up and down as (weight, bias, down, up) each; their factors in `scaling`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scaling: tuple[float, float, float], *tensors: Any) -> torch.Tensor:
        ctx.form, ctx.given, ctx.scaling = x.shape[:-1], x.dtype, scaling
        layers = _layers(tensors, scaling)
        x = x.to(compute_dtype(x)).reshape(-1, x.shape[-1])
        (gate, thin_gate), (up, thin_up) = product(x, layers[0]), product(x, layers[1])
        y, thin_down = product(gated(gate, up), layers[2])
        again = x.dtype in AGAIN
        trains = any(layer.down is not None and layer.down.requires_grad for layer in layers[:2])
        wide = (None, None, None, None) if again else (gate, up, thin_gate, thin_up)
        ctx.save_for_backward(x if trains or again else None, *wide, thin_down, *tensors)
        return y.view(*ctx.form, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, gate, up, thin_gate, thin_up, thin_down, *tensors = ctx.saved_tensors
        layers, wanted = _layers(tensors, ctx.scaling), ctx.needs_input_grad[0]
        if gate is None:
            (gate, thin_gate), (up, thin_up) = product(x, layers[0]), product(x, layers[1])
        dy = dy.to(gate.dtype).reshape(-1, dy.shape[-1])
        dthin_down, dof_down = slopes(dy, thin_down, layers[2])
        dgate, dup, act = gated_slopes(input_slope((dy, dthin_down, layers[2])), gate, up)
        dthin_gate, dof_gate = slopes(dgate, thin_gate, layers[0])
        dthin_up, dof_up = slopes(dup, thin_up, layers[1])
        dx = None
        if wanted:
            dx = input_slope((dgate, dthin_gate, layers[0]), (dup, dthin_up, layers[1]))
            dx = dx.view(*ctx.form, -1).to(ctx.given)
        grads: list[torch.Tensor | None] = []
        for dthin, seen, layer, dof in zip(
            (dthin_gate, dthin_up, dthin_down), (x, x, act), layers, (dof_gate, dof_up, dof_down), strict=True
        ):
            grads += [None, None, down_slope(dthin, seen, layer), dof]
        return dx, None, *grads


def _layers(tensors: Sequence[Any], scaling: tuple[float, float, float]) -> list[Weights]:
    parts = [tensors[4 * index : 4 * index + 4] for index in range(3)]
    return [Weights(*own, factor) for own, factor in zip(parts, scaling, strict=True)]  # type: ignore[call-arg]


def mlp(x: torch.Tensor, gate: Weights, up: Weights, down: Weights) -> torch.Tensor:
    """down(silu(gate(x)) up(x)) of x (..., D)."""
    layers = (gate, up, down)
    tensors = [tensor for layer in layers for tensor in layer[:4]]
    return _Mlp.apply(x, tuple(layer.scaling for layer in layers), *tensors)
