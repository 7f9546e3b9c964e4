"""Continued pre-training: cross-entropy on every token of plain text but the first of a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from finetune.data.chat import Example
from finetune.data.documents import DocumentEncoder
from finetune.data.encode import encode_items
from finetune.data.rows import Sample
from finetune.recipe import DataSection
from finetune.recipe_stages import CptSection
from finetune.stages.base import Batch, LossSum
from finetune.stages.batch import collate_rows, model_inputs


class Cpt:
    """Loss = - sum over tokens of log p(token | tokens before it in its document); what a document is: data/documents.py."""

    unit = "tokens"

    def __init__(
        self, encoder: DocumentEncoder, data: DataSection, settings: CptSection, pad_to_multiple_of: int = 1
    ) -> None:
        self.encoder = encoder
        self.data = data
        self.settings = settings
        self.pad_to_multiple_of = pad_to_multiple_of

    def encode(self, samples: Sequence[Sample]) -> list[Example]:
        return encode_items(self.encoder, self.data, "text", samples)

    def collate(self, items: Sequence[Example]) -> Batch:
        """As `collate_rows`."""
        pad_id = self.encoder.tokenizer.pad_token_id
        return collate_rows(items, pad_id, self.pad_to_multiple_of, self.data.padding_free)

    def count(self, batch: Batch) -> int:
        """Trained tokens."""
        return batch["targets"].numel()

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        logits = model(*model_inputs(batch))  # (N, V)
        value = F.cross_entropy(logits.float(), batch["targets"], reduction="sum")
        correct = (logits.detach().argmax(-1) == batch["targets"]).sum()
        return LossSum(value, {"token_accuracy": correct})

    def scores(self, means: Mapping[str, float]) -> dict[str, float]:
        """`mean_logprob`: nats a token, minus the loss; `token_accuracy`: share of tokens that are the most likely one."""
        return {"mean_logprob": -means["loss"], "token_accuracy": means["token_accuracy"]}
