"""Ascend's fused ops, as torch_npu names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.device.kernels import Kernels

if TYPE_CHECKING:
    import torch


def kernels() -> Kernels:
    """Of the torch_npu that is loaded. A name that it lacks is an AttributeError at the first call."""
    import torch
    import torch_npu  # type: ignore[import-not-found]

    def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        return torch_npu.npu_rms_norm(x, weight, epsilon=epsilon)[0]  # and the reciprocal root, for its backward

    def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch_npu.npu_swiglu(torch.cat((gate, up), dim=-1), dim=-1)

    def rotary(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch_npu.npu_rotary_mul(q, cos, sin, "half"), torch_npu.npu_rotary_mul(k, cos, sin, "half")

    return Kernels(rms_norm, swiglu, rotary)
