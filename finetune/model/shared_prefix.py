"""Attention in a row of sequences some of which begin alike: what they share stands once, and none sees another's rest.

A row is documents end to end. A document may go on from the first tokens of an earlier one: it attends to these and to
itself, as if it stood alone (for preference pairs: Wang and Hegde 2024, arXiv 2410.20305, who do it with a mask). Here
each document is a call of its own, so that no (T, T) mask exists: memory grows with T, and time with the documents.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F

NAME = "shared_prefix"  # among transformers' attention implementations
CHUNK = 256  # queries that are masked at once
Documents = Sequence[tuple[int, int]]


class SharedPrefixes:
    """The documents of a row, and the masks that its layers have in common.

    Attributes:
        documents: of each, (tokens that come before it, its own tokens). Those before it are the first ones of the last
            document that has none before it.
    """

    def __init__(self, documents: Documents) -> None:
        self.documents = tuple(documents)
        self._masks: dict[tuple[Any, ...], torch.Tensor] = {}

    def mask(self, first: int, count: int, window: int | None, like: torch.Tensor) -> tuple[int, torch.Tensor]:
        """For `count` queries (at most CHUNK) of a sequence from place `first` on.

        Returns:
            The first place that any of them sees, and (count, places from there on): 0 where seen, else -inf; in
            the dtype and on the device of `like`. A view of one tensor for all documents and layers.
        """
        longest = max(before + own for before, own in self.documents)
        left = longest if window is None else min(longest, window - 1)
        key = (window, like.dtype, like.device)
        if key not in self._masks:
            offset = torch.arange(left + CHUNK, device=like.device)[None] - left  # from the first query
            query = torch.arange(CHUNK, device=like.device)[:, None]
            seen = (offset <= query) if window is None else (offset <= query) & (offset > query - window)
            self._masks[key] = torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, -torch.inf)
        behind = min(first, left)
        return first - behind, self._masks[key][:count, left - behind : left + count]


class AttentionSwitch:
    """A context in which a model attends as SharedPrefixes says; `around_backward` lets its backward pass be one too.

    Gradient checkpointing computes layers anew in the backward pass, when the forward pass's context is long over.
    """

    def __init__(self, config: Any) -> None:
        self.config = config.get_text_config()
        self.own: str | None = None

    def __enter__(self) -> None:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface

        AttentionInterface.register(NAME, _uncompiled())
        AttentionMaskInterface.register(NAME, window_of)
        if self.config._attn_implementation != NAME:  # it is that after a backward pass that failed
            self.own = self.config._attn_implementation
        self.config._attn_implementation = NAME

    def __exit__(self, *_error: object) -> None:
        self.config._attn_implementation = self.own

    def around_backward(self, output: torch.Tensor) -> None:
        """From when the gradient of the model's output is there to the end of that backward pass."""
        if not output.requires_grad:
            return

        def begin(_gradient: torch.Tensor) -> None:
            self.__enter__()
            torch.autograd.Variable._execution_engine.queue_callback(self.__exit__)

        output.register_hook(begin)


@contextmanager
def attending(switch: AttentionSwitch | None) -> Iterator[None]:
    """Inside, the switch is on; without one nothing changes."""
    if switch is None:
        yield
        return
    with switch:
        yield


@functools.cache
def _uncompiled() -> Callable[..., Any]:
    """`attend` as compiled layers leave it alone: its loop is another one in every batch. (torch's compiler is imported.)"""
    return torch.compiler.disable(attend)


def window_of(
    *_places: Any, local_size: int | None = None, use_vmap: bool = False, **_rest: Any
) -> torch.Tensor | None:
    """What transformers asks for a mask gives no mask, but the layers' window, (1, 1, 1, 1) on the host, or None.

    Raises:
        NotImplementedError: the architecture adds a rule of its own to who sees whom.
    """
    if use_vmap:
        raise NotImplementedError("its attention has rules of its own")
    return None if local_size is None else torch.tensor(local_size).reshape(1, 1, 1, 1)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    shared_prefixes: SharedPrefixes | None = None,
    is_causal: bool | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it, for one row of documents: (1, T, heads, width).

    Args:
        query: (1, heads, T, width). key, value: (1, key heads, T, width).
        attention_mask: of `window_of`.

    Raises:
        NotImplementedError: the layer asks for what this does not do.
    """
    told = None if attention_mask is None else int(attention_mask)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    refused = [name for name in ("s_aux", "position_bias") if rest.get(name) is not None]
    if shared_prefixes is None or len(query) != 1 or not causal or told != sliding_window or refused:
        raise NotImplementedError("its attention is not plain causal attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    lengths = [own for _before, own in shared_prefixes.documents]
    parts = zip(
        shared_prefixes.documents,
        query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True,
    )  # fmt: skip
    outputs, first_key, first_value = [], key, value
    for (before, own), queries, keys, values in parts:
        if before:
            keys = torch.cat([first_key[:, :, :before], keys], 2)
            values = torch.cat([first_value[:, :, :before], values], 2)
        else:
            first_key, first_value = keys, values
        if before == 0 and softcap is None and (sliding_window is None or own <= sliding_window):
            outputs.append(_attention(queries, keys, values, None, scale, None, dropout))
            continue
        place = before
        for some in queries.split(CHUNK, 2):
            until = place + some.shape[2]
            start, mask = shared_prefixes.mask(place, some.shape[2], sliding_window, query)
            seen = (keys[:, :, start:until], values[:, :, start:until])
            outputs.append(_attention(some, *seen, mask, scale, softcap, dropout))
            place = until
    return torch.cat([output.transpose(1, 2) for output in outputs], 1), None


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    dropout: float,
) -> torch.Tensor:
    """(1, heads, queries, width); without a mask each query sees the keys up to its own."""
    groups = query.shape[1] // key.shape[1]
    # On a GPU the kernels that take a mask don't share key heads: torch would fall back to one that keeps all scores.
    shares = groups > 1 and softcap is None and (mask is None or query.device.type == "cpu")
    if groups > 1 and not shares:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal=mask is None, scale=scale, enable_gqa=shares
        )
    assert mask is not None
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scale / softcap) + mask
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = F.dropout(scores.softmax(-1, dtype=wide).to(value.dtype), dropout)
    return weights @ value
