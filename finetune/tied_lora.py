"""LoRA on both ends of a tied matrix as one: the output layer's halves are the embedding's, turned round."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class TurnedHalf(nn.Module):
    """Stands for lora_A or lora_B of the output layer; its weight is the other half of the embedding's, transposed.

    peft makes a second parameter on the same memory, which has its own gradient and its own step, and which goes its
    own way as soon as one of the two is cast or moved. Here there is one parameter; its gradient is the sum of both.

    Args:
        embedding: peft's LoRA layer of the embedding. half: `lora_embedding_A` (r, vocabulary) or `lora_embedding_B`
            (width, r) of it.
    """

    def __init__(self, embedding: Any, half: str, adapter: str) -> None:
        super().__init__()
        self._source = (embedding, half, adapter)  # in a tuple: no module of this one
        self.bias = None

    @property
    def weight(self) -> torch.Tensor:
        embedding, half, adapter = self._source
        return getattr(embedding, half)[adapter].t()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Under the name that peft's own has, so that an adapter's file is what peft reads."""
        weight = self.weight if keep_vars else self.weight.detach()
        destination[f"{prefix}weight"] = weight.clone(memory_format=torch.contiguous_format)

    def _load_from_state_dict(self, *_: Any) -> None:
        """Nothing to load: the embedding's is."""


def tie_ends(peft_model: nn.Module) -> None:
    """The output layer's LoRA becomes a view of the embedding's, where peft has tied them (`ensure_weight_tying`)."""
    base: Any = peft_model.get_base_model()  # type: ignore[operator]
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    for adapter in getattr(embedding, "lora_embedding_A", ()):
        if adapter in getattr(head, "lora_A", ()):
            head.lora_A[adapter] = TurnedHalf(embedding, "lora_embedding_B", adapter)
            head.lora_B[adapter] = TurnedHalf(embedding, "lora_embedding_A", adapter)
