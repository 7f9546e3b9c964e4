"""scaled_dot_product_attention: one kernel where a card has one, else torch's composition of plain ops."""

from __future__ import annotations

from typing import Any

import torch

from torch_npu import allocations, hardware
from torch_npu.border import to_cpu, to_npu

aten = torch.ops.aten
MATH, OVERRIDEABLE = 0, 3  # at::SDPBackend
LONGEST_HEAD = 512


def install(library: torch.library.Library) -> None:
    library.impl("_fused_sdp_choice", choice, "PrivateUse1")
    library.impl("_scaled_dot_product_fused_attention_overrideable", forward, "PrivateUse1")
    library.impl("_scaled_dot_product_fused_attention_overrideable_backward", backward, "PrivateUse1")


def choice(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> int:  # fmt: skip
    """Plain ops for a mask that is not of booleans and for long heads; and for dropout, which the CPU's kernel lacks."""
    masked = attn_mask is not None and attn_mask.dtype != torch.bool
    return MATH if masked or dropout_p or query.size(-1) > LONGEST_HEAD else OVERRIDEABLE


def forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_bias: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, return_debug_mask: bool = False, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """(B, N, T, D) each. Returns what the op returns: output, its log-sum-exp, and of the rest what shapes need."""
    hardware.refuse_dtype(query.dtype, "scaled_dot_product_attention")
    out, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(
        to_cpu(query), to_cpu(key), to_cpu(value), dropout_p, is_causal,
        attn_mask=None if attn_bias is None else to_cpu(attn_bias), scale=scale,
    )  # fmt: skip
    index = query.device.index
    for tensor in (out, logsumexp):
        allocations.account(tensor, index)
    seed, offset = (to_npu(torch.zeros((), dtype=torch.int64), index) for _ in range(2))
    return to_npu(out, index), to_npu(logsumexp, index), None, None, query.size(2), key.size(2), seed, offset, None


def backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_bias: torch.Tensor | None,
    wanted: Any, out: torch.Tensor, logsumexp: torch.Tensor, cum_seq_q: Any, cum_seq_k: Any, max_q: int, max_k: int,
    dropout_p: float, is_causal: bool, seed: Any, offset: Any, *, scale: float | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    mask = None if attn_bias is None or attn_bias.numel() == 0 else to_cpu(attn_bias)
    found = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *(to_cpu(tensor) for tensor in (gradient, query, key, value, out, logsumexp)), dropout_p, is_causal, attn_mask=mask,
        scale=scale,
    )  # fmt: skip
    return *(to_npu(tensor, query.device.index) for tensor in found), None
