"""Logits at the trained positions only: most of a batch is prompt, and the vocabulary is the widest layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class TrainedPositions(nn.Module):
    """A causal LM whose forward gives logits at chosen positions.

    The output head sees only the chosen rows; whatever the model does to its logits afterwards (scaling, soft-capping)
    still happens, because its own forward runs. Without `keep` it is the model unchanged, so generation works too.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._keep: torch.Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) at the N true positions of `keep` (B, T), row by row. `input_ids`, `attention_mask`: (B, T)."""
        self._keep = keep
        try:
            output = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        finally:
            self._keep = None
        return output.logits[0]  # (1, N, V)

    def _select(self, _head: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if self._keep is None:
            # The last position's slice of a prompt (B, 1, D) is not contiguous; on CPU the product would then copy the
            # whole (D, V) weight B times.
            return (inputs[0].contiguous(), *inputs[1:])
        return (inputs[0][self._keep][None], *inputs[1:])  # (B, T, D) -> (1, N, D)
