"""Supervised fine-tuning: cross-entropy on the assistant's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from finetune.data.chat import ChatEncoder, Example
from finetune.data.encode import encode_items
from finetune.data.rows import Sample
from finetune.recipe import DataSection
from finetune.recipe_stages import SftSection
from finetune.stages.base import Batch, LossSum
from finetune.stages.batch import collate_rows, model_inputs


class Sft:
    """Loss = - sum over trained tokens of log p(token | tokens before it).

    With label smoothing e (arXiv 1512.00567, section 7), in training only, a token's loss is
    (1 - e) * -log p(token) + e * mean over the vocabulary of -log p(v); `nll` is the loss without it.
    """

    unit = "tokens"

    def __init__(
        self, encoder: ChatEncoder, data: DataSection, settings: SftSection, pad_to_multiple_of: int = 1
    ) -> None:
        self.encoder = encoder
        self.data = data
        self.settings = settings
        self.pad_to_multiple_of = pad_to_multiple_of

    def encode(self, samples: Sequence[Sample]) -> list[Example]:
        return encode_items(self.encoder, self.data, "conversation", samples)

    def collate(self, items: Sequence[Example]) -> Batch:
        """As `collate_rows`."""
        pad_id = self.encoder.tokenizer.pad_token_id
        return collate_rows(items, pad_id, self.pad_to_multiple_of, self.data.padding_free)

    def count(self, batch: Batch) -> int:
        """Trained tokens."""
        return batch["targets"].numel()

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        logits = model(*model_inputs(batch))  # (N, V)
        targets, smoothing = batch["targets"], self.settings.label_smoothing_factor
        correct = (logits.detach().argmax(-1) == targets).sum()
        value = nll = F.cross_entropy(logits.float(), targets, reduction="sum")
        if not smoothing:
            return LossSum(value, {"token_accuracy": correct})
        if model.training:
            value = F.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)
        return LossSum(value, {"token_accuracy": correct, "nll": nll.detach()})

    def scores(self, means: Mapping[str, float]) -> dict[str, float]:
        return {}
