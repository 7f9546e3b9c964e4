"""torch_npu's fused ops as plain formulas, with the conditions that its documentation sets (torch_npu 2.13.0)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from torch_npu import hardware

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
LAYOUTS = {"BNSD": (0, 1, 2, 3), "BSND": (0, 2, 1, 3), "SBND": (1, 2, 0, 3)}  # the order that makes it BNSD
LEFT_UP, RIGHT_DOWN = 2, 3  # sparse_mode: a triangle from the first corner, or one that ends in the last
CORNER = (2048, 2048)  # atten_mask of these modes, whatever the lengths are


def npu_rms_norm(input: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., D), (D,) -> (..., D) in `input`'s dtype, (..., 1) in float32: 1 / root mean square."""
    _check("npu_rms_norm", input, gamma)
    if gamma.shape != input.shape[-gamma.dim() :]:
        raise RuntimeError(f"emulated npu: npu_rms_norm: gamma {tuple(gamma.shape)} does not end {tuple(input.shape)}")
    with torch.autocast("npu", enabled=False):
        wide = input.float()
        rstd = torch.rsqrt(wide.pow(2).mean(tuple(range(-gamma.dim(), 0)), keepdim=True) + epsilon)
        return (wide * rstd * gamma.float()).to(input.dtype), rstd


def npu_swiglu(input: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """silu(first half) * second half."""
    _check("npu_swiglu", input)
    first, second = input.chunk(2, dim=dim)
    with torch.autocast("npu", enabled=False):
        return (F.silu(first.float()) * second.float()).to(input.dtype)


def npu_rotary_mul(
    input: torch.Tensor, r1: torch.Tensor, r2: torch.Tensor, rotary_mode: str = "half", rotate: Any = None
) -> torch.Tensor:
    """input * r1 + turned(input) * r2: four dimensions each, r1 (cosines) and r2 (sines) of size 1 where they are shared.

    Raises:
        RuntimeError: shapes or dtypes beyond the documented ones.
    """
    _check("npu_rotary_mul", input, r1, r2)
    if rotate is not None:
        raise NotImplementedError("emulated npu: npu_rotary_mul: rotate")
    head = input.shape[-1]
    four = input.dim() == r1.dim() == r2.dim() == 4
    if (
        not four
        or head % 2
        or head >= 896
        or any(of not in (1, size) for of, size in zip(r1.shape, input.shape, strict=True))
    ):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (input, r1, r2))
        raise RuntimeError(f"emulated npu: npu_rotary_mul: shapes {shapes}")
    if rotary_mode == "half":
        first, second = input.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
    elif rotary_mode == "interleave":
        turned = torch.stack((-input[..., 1::2], input[..., ::2]), dim=-1).flatten(-2)
    else:
        raise RuntimeError(f"emulated npu: npu_rotary_mul: rotary_mode {rotary_mode!r}")
    with torch.autocast("npu", enabled=False):
        return input * r1 + turned * r2


def npu_fusion_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, head_num: int, input_layout: str,
    pse: torch.Tensor | None = None, padding_mask: torch.Tensor | None = None, atten_mask: torch.Tensor | None = None,
    scale: float = 1.0, keep_prob: float = 1.0, pre_tockens: int = 2147483647, next_tockens: int = 2147483647,
    inner_precise: int = 0, prefix: Sequence[int] | None = None, actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None, sparse_mode: int = 0, gen_mask_parallel: bool = True, sync: bool = False,
    softmax_layout: str = "", sink: torch.Tensor | None = None, dropout_mask: torch.Tensor | None = None, seed: int = 0,
    offset: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int, int]:  # fmt: skip
    """Attention over layouts BNSD, BSND, SBND and TND (documents one after another, `actual_*` their cumulative ends).

    Args:
        atten_mask: True hides, the opposite of scaled_dot_product_attention; (2048, 2048) for sparse_mode 2 and 3. Without
            it sparse_mode says nothing.

    Returns:
        The output in the layout of `query`, and six values for a backward pass that is not needed here.

    Raises:
        RuntimeError: shapes or dtypes beyond the documented ones.
        NotImplementedError: what the emulation lacks: pse, prefix, sink, dropout_mask, other layouts and modes.
    """
    _check("npu_fusion_attention", query, key, value)
    if (
        pse is not None
        or padding_mask is not None
        or prefix is not None
        or sparse_mode not in (0, 1, LEFT_UP, RIGHT_DOWN)
    ):
        raise NotImplementedError("emulated npu: npu_fusion_attention: pse, padding_mask, prefix or this sparse_mode")
    if sparse_mode in (LEFT_UP, RIGHT_DOWN) and atten_mask is not None and tuple(atten_mask.shape) != CORNER:
        raise RuntimeError(
            f"emulated npu: npu_fusion_attention: atten_mask {tuple(atten_mask.shape)}, must be {CORNER}"
        )
    how = (atten_mask, sparse_mode, scale, keep_prob)
    if input_layout == "TND":
        out = _documents(query, key, value, head_num, actual_seq_qlen, actual_seq_kvlen, how)
    elif input_layout in LAYOUTS:
        order = LAYOUTS[input_layout]
        back = [order.index(at) for at in range(4)]
        out = _attend(*(tensor.permute(order) for tensor in (query, key, value)), head_num, *how).permute(back)
    else:
        raise NotImplementedError(f"emulated npu: npu_fusion_attention: layout {input_layout}")
    nothing = query.new_zeros(0)
    return out.contiguous(), nothing, nothing, nothing, 0, 0, 0


def _documents(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    head_num: int,
    q_ends: Any,
    k_ends: Any,
    how: tuple[Any, ...],
) -> torch.Tensor:
    """(T, N, D): each document alone."""
    if not q_ends or not k_ends or len(q_ends) != len(k_ends) or (q_ends[-1], k_ends[-1]) != (len(query), len(key)):
        raise RuntimeError(f"emulated npu: npu_fusion_attention: TND with ends {q_ends} and {k_ends}")
    starts = zip((0, *q_ends[:-1]), (0, *k_ends[:-1]), strict=True)
    parts = []
    for (q_start, k_start), q_end, k_end in zip(starts, q_ends, k_ends, strict=True):
        own = (query[q_start:q_end], key[k_start:k_end], value[k_start:k_end])
        parts.append(_attend(*(tensor.transpose(0, 1)[None] for tensor in own), head_num, *how)[0].transpose(0, 1))
    return torch.cat(parts)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, head_num: int, mask: torch.Tensor | None, mode: int,
    scale: float, keep_prob: float,
) -> torch.Tensor:  # fmt: skip
    """(B, N, S, D), with fewer heads in key and value where they are shared."""
    if query.shape[1] != head_num or head_num % key.shape[1] or key.shape != value.shape:
        raise RuntimeError(f"emulated npu: npu_fusion_attention: {head_num} heads, {query.shape[1]} and {key.shape[1]}")
    shared = head_num // key.shape[1]
    key, value = (tensor.repeat_interleave(shared, 1) if shared > 1 else tensor for tensor in (key, value))
    with torch.autocast("npu", enabled=False):
        scores = torch.matmul(query, key.transpose(-1, -2)).float() * scale  # (B, N, Sq, Skv)
        if mask is not None:
            q_length, k_length = scores.shape[-2:]
            if mode in (LEFT_UP, RIGHT_DOWN):
                seen = 0 if mode == LEFT_UP else k_length - q_length
                ones = torch.ones(q_length, k_length, dtype=torch.bool, device=scores.device)
                mask = ones.tril(seen).logical_not()
            scores = scores.masked_fill(mask.bool(), torch.finfo(torch.float32).min)
        shares = torch.softmax(scores, -1).to(query.dtype)
        return torch.matmul(F.dropout(shares, 1.0 - keep_prob) if keep_prob < 1 else shares, value)


def _check(name: str, *tensors: torch.Tensor) -> None:
    """All on the device, of one dtype that it has."""
    for tensor in tensors:
        if tensor.device.type != "npu" or tensor.dtype not in FLOATS or tensor.dtype != tensors[0].dtype:
            raise RuntimeError(f"emulated npu: {name}: {[(str(t.dtype), str(t.device)) for t in tensors]}")
    hardware.refuse_dtype(tensors[0].dtype, name)
