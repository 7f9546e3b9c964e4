"""Causal attention within each document of a row, without a (T, T) mask, for the CPU: forward by torch's flash kernel, backward
by matrix products, which there is several times as fast as the kernel's own (docs/benchmarks/train.md).

Dao 2023 (FlashAttention-2, arXiv 2307.08691), section 3: with P = exp(S - L) for the scores S = q k^T scale and L their
log-sum-exp, and delta = sum(do * o): dv = P^T do, dS = P (do v^T - delta), dq = scale dS k, dk = scale dS^T q.

S - L and do v^T - delta are one product each, q and do with columns of -L and -delta, k and v with columns of ones: so what is
rounded to bfloat16 is small, and no pass over (T, T) is spent on subtracting. In half precision two columns hold L, its
rounding and the rest. P is used times 2^c, do times 2^-c, which is exact: with 2^c near the root of the number of keys, S - L + c
log 2 is near 0 both where one key has all the weight and where all have the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.autograd.function import once_differentiable

BLOCK = 256  # queries at a time in the backward: half of a causal square needs no product


class _DocumentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bounds: Sequence[int],
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        output = torch.empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3], dtype=q.dtype).transpose(1, 2)
        logs = torch.empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        for document in _documents(bounds):
            parts = [tensor[:, :, document] for tensor in (q, k, v)]
            output[:, :, document], logs[:, :, document] = _flash(*parts, scale=scale, window=window)
        ctx.save_for_backward(q, k, v, output, logs)
        ctx.bounds, ctx.scale, ctx.window = bounds, scale, window
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, output, logs = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in (q, k, v)]
        for row in range(len(q)):
            for document in _documents(ctx.bounds):
                parts = [tensor[row, :, document] for tensor in (q, k, v, output, logs, gradient)]
                found = _slopes(*parts, scale=ctx.scale, window=ctx.window)
                for whole, part in zip(grads, found, strict=True):
                    whole[row, :, document] = part
        return (*grads, None, None, None)


def document_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: Sequence[int], scale: float, window: int | None = None
) -> torch.Tensor:
    """(B, H, T, D) of q (B, H, T, D), k and v (B, G, T, D); each group of H / G query heads shares a key head.

    Args:
        bounds: where in T the documents begin, the same in each row, and the end.
        window: a token sees so many tokens, itself and those before it; None: all before it.
    """
    return _DocumentAttention.apply(q, k, v, bounds, scale, window)


def _documents(bounds: Sequence[int]) -> Iterator[slice]:
    return (slice(start, end) for start, end in pairwise(bounds) if end > start)


def _per_query_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(..., G, T, D) to (..., heads, T, D)."""
    return x.repeat_interleave(heads // x.shape[-3], dim=-3)


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (B, H, T, D) and the scores' log-sum-exp (B, H, T)."""
    length, heads = q.shape[2], q.shape[1]
    mask = None
    if window is not None and window < length:
        place = torch.arange(length)
        seen = (place[:, None] >= place) & (place[:, None] - place < window)
        mask = torch.zeros(length, length, dtype=q.dtype).masked_fill_(~seen, -torch.inf)[None, None]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, _per_query_head(k, heads), _per_query_head(v, heads), 0.0, mask is None, attn_mask=mask, scale=scale
    )


def _slopes(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    output: torch.Tensor,
    logs: torch.Tensor,
    gradient: torch.Tensor,
    *,
    scale: float,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The derivatives by q (H, T, D), k and v (G, T, D), of one document; arguments without the dimension of the batch.

    Key by key: (keys, queries) is P^T, so that dk and dv are whole after one product, and the heads of a group are rows of
    the same product, which sums over them.
    """
    groups, length = len(k), k.shape[1]
    n = len(q) // groups  # query heads that share a key head; row t n + i is the i-th of token t
    powers = (0.5 * torch.arange(1.0, length + 1).clamp_(max=window or length).log2()).round()[:, None]  # (T, 1)
    gradient = gradient * torch.exp2(-powers).to(gradient.dtype)
    logs = logs - powers[:, 0].to(logs.dtype) * math.log(2)
    delta = (gradient * output).sum(-1, dtype=logs.dtype)  # (H, T)
    queries, slopes = _by_group(q * scale, groups), _by_group(gradient, groups)  # (G, T n, D)
    queries_and_logs = torch.cat([queries, _columns(-_by_group(logs.unsqueeze(-1), groups), q.dtype)], dim=-1)
    slopes_and_delta = torch.cat([slopes, _columns(-_by_group(delta.unsqueeze(-1), groups), q.dtype)], dim=-1)
    ones = k.new_ones(groups, length, queries_and_logs.shape[-1] - q.shape[-1])
    keys_and_ones, values_and_ones = torch.cat([k, ones], dim=-1), torch.cat([v, ones], dim=-1)
    keys = k.contiguous()
    dq = torch.zeros(queries.shape, dtype=logs.dtype)
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        last = length if window is None else min(length, end + window - 1)
        seen, rows = slice(start, end), slice(start * n, last * n)
        p = keys_and_ones[:, seen] @ queries_and_logs[:, rows].transpose(1, 2)  # (G, keys, queries n)
        edge = last if window is not None else end  # no key of the block is hidden from the queries behind it
        p[..., : (edge - start) * n].masked_fill_(_hidden(start, end, edge, n, window), -torch.inf)
        p.exp_()
        dv[:, seen] = p @ slopes[:, rows]
        ds = (values_and_ones[:, seen] @ slopes_and_delta[:, rows].transpose(1, 2)).mul_(p)
        dk[:, seen] = ds @ queries[:, rows]
        dq[:, rows] += ds.transpose(1, 2) @ keys[:, seen]
    return dq.mul_(scale).view(groups, length, n, -1).transpose(1, 2).reshape(q.shape), dk, dv


def _by_group(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(H, T, D) to (G, T H / G, D), the heads of a group side by side for each token."""
    heads, length, width = x.shape
    return x.view(groups, heads // groups, length, width).transpose(1, 2).reshape(groups, -1, width)


def _columns(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(..., 1) in x's own dtype, or (..., 2): what is left of the rounding to a narrower one beside it."""
    near = x.to(dtype)
    return near if near.dtype == x.dtype else torch.cat([near, (x - near.to(x.dtype)).to(dtype)], dim=-1)


def _hidden(start: int, end: int, edge: int, n: int, window: int | None) -> torch.Tensor:
    """(keys from start to end, n times queries from start to edge): queries before a key, or behind its window."""
    keys, queries = torch.arange(start, end)[:, None], torch.arange(start, edge).repeat_interleave(n)
    hidden = queries < keys
    return hidden if window is None else hidden | (queries - keys >= window)
