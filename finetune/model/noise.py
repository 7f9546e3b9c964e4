"""NEFTune: noise on the embeddings of the tokens that training reads (arXiv 2310.05914)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EmbeddingNoise:
    """Uniform noise within +-alpha / sqrt(L d), L being the tokens of the row or document, d the embedding's width.

    It is drawn from torch's generator, like dropout: repeated by a resumed run, another one where a batch is split
    differently over micro-batches or processes. Its size does not depend on that, nor on what fills up a row.

    Calling it gives a context: the embeddings computed inside get noise, no others.
    """

    def __init__(self, embedding: nn.Module, alpha: float) -> None:
        self.alpha = alpha
        self._lengths: torch.Tensor | None = None
        embedding.register_forward_hook(self._add)

    @contextmanager
    def __call__(self, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None) -> Iterator[None]:
        self._lengths = lengths(attention_mask, position_ids)
        try:
            yield
        finally:
            self._lengths = None

    def _add(self, _embedding: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if self._lengths is None:
            return output
        length = self._lengths.reshape(*output.shape[:-1], 1)  # flash kernels get all rows as one
        bound = torch.where(length > 0, self.alpha * (length.clamp(min=1) * output.shape[-1]).rsqrt(), 0.0)
        noise = (2 * torch.rand(output.shape, device=output.device) - 1) * bound  # (B, T, d) float32
        return (output.float() + noise).to(output.dtype)


def lengths(attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None) -> torch.Tensor:
    """(B, T) float32: at each token the length of its row, or of its document in a packed row; 0 at what fills up a row.

    Args:
        attention_mask: (B, T), 1 at real tokens; None for packed rows.
        position_ids: (B, T), from 0 in each document.
    """
    if position_ids is None:
        assert attention_mask is not None
        return (attention_mask * attention_mask.sum(1, keepdim=True)).float()
    document = (position_ids.flatten() == 0).cumsum(0) - 1
    return document.bincount()[document].reshape(position_ids.shape).float()
