"""Causal attention within each document of a row, without a (T, T) mask, for the CPU: forward by torch's flash kernel, backward
by matrix products, which there is faster than the kernel's own (docs/benchmarks/train.md).

Dao 2023 (FlashAttention-2, arXiv 2307.08691), section 3: with P = exp(S - L) for the scores S = q k^T scale and L their
log-sum-exp, and delta = sum(do * o): dv = P^T do, dS = P (do v^T - delta), dq = scale dS k, dk = scale dS^T q.

S - L and do v^T - delta are one product each, q and do with columns of -L and -delta, k and v with columns of ones: so what is
rounded to bfloat16 is small, and no pass over (T, T) is spent on subtracting. In half precision two columns hold L, its
rounding and the rest. P is used times 2^c, do times 2^-c, which is exact: with 2^c near the root of the number of keys, S - L + c
log 2 is near 0 both where one key has all the weight and where all have the same.

Documents of like length are computed together, filled up behind their ends, where nothing of them looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from finetune.device.onednn import few_sizes

BLOCK = 256  # keys at a time in the backward: half of a causal square needs no product
BUDGET = 1 << 22  # scores of such a block, of all documents that are computed together
SIZES = 8  # of documents in half precision, see few_sizes
LIKE, FEW = 0.8, 16  # of like length: of so much of the longest one's, or so few tokens shorter


class Together(NamedTuple):
    """Documents that are computed together.

    Attributes:
        places: (n, L) which tokens they are; behind a document's end any.
        real: (n, L) which of these are its own; None: all.
        stretch: where they are all of it, one after the other, with nothing between.
    """

    places: torch.Tensor
    real: torch.Tensor | None
    stretch: slice | None


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
        q, k, v = (_by_token(tensor) for tensor in (q, k, v))
        rows = len(q) // bounds[-1]
        ctx.shape, ctx.scale, ctx.window = (rows, bounds[-1]), scale, window
        starts = (*(b + row * bounds[-1] for row in range(rows) for b in bounds[:-1]), len(q))
        ctx.lots = _lots(starts, q.shape[1], q.dtype.itemsize == 2)
        output, logs = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
        for lot in ctx.lots:
            found, its_logs = _flash(*(_take(tensor, lot) for tensor in (q, k, v)), scale=scale, window=window)
            _put(output, found, lot)
            _put(logs, its_logs, lot)
        ctx.save_for_backward(q, k, v, output, logs)
        return _by_row(output, ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, output, logs = ctx.saved_tensors
        gradient = _by_token(gradient)
        grads = [torch.empty_like(tensor) for tensor in (q, k, v)]
        for lot in ctx.lots:
            dy = _take(gradient, lot)
            if lot.real is not None:
                dy.masked_fill_(~lot.real[..., None, None], 0)  # a copy: not all of a stretch
            parts = [*(_take(tensor, lot) for tensor in (q, k, v, output, logs)), dy]
            found = _slopes(*parts, scale=ctx.scale, window=ctx.window)
            for whole, part in zip(grads, found, strict=True):
                _put(whole, part, lot)
        return (*(_by_row(tensor, ctx.shape) for tensor in grads), None, None, None)


def document_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: Sequence[int], scale: float, window: int | None = None
) -> torch.Tensor:
    """(B, H, T, D) of q (B, H, T, D), k and v (B, G, T, D); each group of H / G query heads shares a key head.

    Args:
        bounds: where in T the documents begin, the same in each row, and the end.
        window: a token sees so many tokens, itself and those before it; None: all before it.
    """
    return _DocumentAttention.apply(q, k, v, bounds, scale, window)


def _by_token(x: torch.Tensor) -> torch.Tensor:
    """(B, H, T, ...) to (B T, H, ...): a view, as models make their heads."""
    return x.transpose(1, 2).reshape(-1, x.shape[1], *x.shape[3:])


def _by_row(x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(B T, H, D) to (B, H, T, D)."""
    return x.view(*shape, *x.shape[1:]).transpose(1, 2)


@lru_cache(maxsize=8)  # all layers of a batch ask for the same
def _lots(bounds: tuple[int, ...], heads: int, few: bool) -> tuple[Together, ...]:
    """Documents of like length together, the longest first; `few`: filled up to lengths of which there are few."""
    documents = sorted(((end - start, start) for start, end in pairwise(bounds) if end > start), key=_longest_first)
    lots, lot = [], documents[:1]
    for length, start in documents[1:]:
        longest = lot[0][0]
        like = length >= LIKE * longest or longest - length <= FEW
        if like and (len(lot) + 1) * heads * min(longest, BLOCK) * longest <= BUDGET:
            lot.append((length, start))
        else:
            lots.append(_together(lot, few))
            lot = [(length, start)]
    return (*lots, _together(lot, few))


def _longest_first(document: tuple[int, int]) -> tuple[int, int]:
    return -document[0], document[1]


def _together(documents: Sequence[tuple[int, int]], few: bool) -> Together:
    lengths, starts = (torch.tensor(values)[:, None] for values in zip(*documents, strict=True))
    place = torch.arange(few_sizes(documents[0][0], SIZES) if few else documents[0][0])
    real = place < lengths
    places = starts + torch.minimum(place, lengths - 1)
    begin, count = documents[0][1], places.numel()
    joined = torch.equal(places.flatten(), torch.arange(begin, begin + count))
    stretch = slice(begin, begin + count) if joined else None
    return Together(places, None if bool(real.all()) else real, stretch)


def _take(whole: torch.Tensor, lot: Together) -> torch.Tensor:
    """(n, L, ...) of (B T, ...). (Not by an index of two dimensions, which is copied number by number.)"""
    found = whole[lot.stretch] if lot.stretch else whole.index_select(0, lot.places.flatten())
    return found.view(*lot.places.shape, *whole.shape[1:])


def _put(whole: torch.Tensor, part: torch.Tensor, lot: Together) -> None:
    """What was computed of a lot, (n, L, ...), at its places in (B T, ...)."""
    places, part = lot.places.flatten(), part.flatten(0, 1)
    if lot.stretch:
        whole[lot.stretch] = part
        return
    if lot.real is not None:
        own = lot.real.flatten().nonzero()[:, 0]
        places, part = places[own], part.index_select(0, own)
    whole.index_copy_(0, places, part)


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scale: float, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (n, L, H, D) and the scores' log-sum-exp (n, L, H) of q (n, L, H, D), k and v (n, L, G, D)."""
    length, shared = q.shape[1], q.shape[2] // k.shape[2]
    mask = None
    if window is not None and window < length:
        place = torch.arange(length)
        seen = (place[:, None] >= place) & (place[:, None] - place < window)
        mask = torch.zeros(length, length, dtype=q.dtype).masked_fill_(~seen, -torch.inf)[None, None]
    heads = (q, k.repeat_interleave(shared, 2), v.repeat_interleave(shared, 2)) if shared > 1 else (q, k, v)
    output, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *(tensor.transpose(1, 2) for tensor in heads), 0.0, mask is None, attn_mask=mask, scale=scale
    )
    return output.transpose(1, 2), logs.transpose(1, 2)


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
    """The derivatives by q (n, L, H, D), k and v (n, L, G, D); logs (n, L, H).

    Key by key: (keys, queries) is P^T, so that dk and dv are whole after one product, and the heads of a group are rows of
    the same product, which sums over them.
    """
    n, length, groups = k.shape[:3]
    each = q.shape[2] // groups  # query heads that share a key head; row t * each + i is the i-th of token t
    powers = (0.5 * torch.arange(1.0, length + 1).clamp_(max=window or length).log2()).round()[:, None]  # (L, 1)
    gradient = gradient * torch.exp2(-powers).to(gradient.dtype)[..., None]
    logs = logs - powers.to(logs.dtype) * math.log(2)
    delta = (gradient * output).sum(-1, dtype=logs.dtype)  # (n, L, H)
    queries, slopes = _by_group(q * scale, groups), _by_group(gradient, groups)  # (n G, L each, D)
    queries_and_logs = torch.cat([queries, _columns(-_by_group(logs[..., None], groups), q.dtype)], dim=-1)
    slopes_and_delta = torch.cat([slopes, _columns(-_by_group(delta[..., None], groups), q.dtype)], dim=-1)
    keys, values = _by_group(k, groups), _by_group(v, groups)  # (n G, L, D)
    ones = keys.new_ones(n * groups, length, queries_and_logs.shape[-1] - q.shape[-1])
    keys_and_ones, values_and_ones = torch.cat([keys, ones], dim=-1), torch.cat([values, ones], dim=-1)
    dq = torch.zeros(queries.shape, dtype=logs.dtype) if length > BLOCK else torch.empty(0)
    dk, dv = torch.empty_like(keys), torch.empty_like(values)
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        last = length if window is None else min(length, end + window - 1)
        seen, rows = slice(start, end), slice(start * each, last * each)
        p = keys_and_ones[:, seen] @ queries_and_logs[:, rows].transpose(1, 2)  # (n G, keys, queries each)
        edge = last if window is not None else end  # no key of the block is hidden from the queries behind it
        p[..., : (edge - start) * each].masked_fill_(_hidden(start, end, edge, each, window), -torch.inf)
        p.exp_()
        dv[:, seen] = p @ slopes[:, rows]
        ds = (values_and_ones[:, seen] @ slopes_and_delta[:, rows].transpose(1, 2)).mul_(p)
        dk[:, seen] = ds @ queries[:, rows]
        by_keys = ds.transpose(1, 2) @ keys[:, seen]
        if length > BLOCK:
            dq[:, rows] += by_keys
        else:
            dq = by_keys
    return _by_document(dq.mul_(scale).to(q.dtype), n, length), _by_document(dk, n, length), _by_document(dv, n, length)


def _by_group(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(n, L, H, D) to (n G, L H / G, D), the heads of a group side by side for each token."""
    n, length, heads, width = x.shape
    return x.view(n, length, groups, heads // groups, width).transpose(1, 2).reshape(n * groups, -1, width)


def _by_document(x: torch.Tensor, n: int, length: int) -> torch.Tensor:
    """The way back: (n G, L H / G, D) to (n, L, H, D)."""
    each = x.shape[1] // length
    return x.view(n, -1, length, each, x.shape[-1]).transpose(1, 2).reshape(n, length, -1, x.shape[-1])


def _columns(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(..., 1) in x's own dtype, or (..., 2): what is left of the rounding to a narrower one beside it."""
    near = x.to(dtype)
    return near if near.dtype == x.dtype else torch.cat([near, (x - near.to(x.dtype)).to(dtype)], dim=-1)


def _hidden(start: int, end: int, edge: int, each: int, window: int | None) -> torch.Tensor:
    """(keys from start to end, queries from start to edge, `each` times): queries before a key, or behind its window."""
    keys, queries = torch.arange(start, end)[:, None], torch.arange(start, edge).repeat_interleave(each)
    hidden = queries < keys
    return hidden if window is None else hidden | (queries - keys >= window)
