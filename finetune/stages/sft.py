"""Supervised fine-tuning: cross-entropy on the assistant's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from finetune.data.chat import IGNORED, ChatEncoder, Example, encode_all
from finetune.data.rows import Sample
from finetune.recipe import DataSection
from finetune.stages.base import Batch, LossSum


class Sft:
    """Loss = - sum over trained tokens of log p(token | tokens before it)."""

    def __init__(self, encoder: ChatEncoder, data: DataSection, pad_to_multiple_of: int = 1) -> None:
        self.encoder = encoder
        self.data = data
        self.pad_to_multiple_of = pad_to_multiple_of

    def encode(self, samples: Sequence[Sample]) -> list[Example]:
        return encode_all(self.encoder, samples, self.data.max_length, self.data.too_long)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Right-padded tensors; the one place where labels are shifted.

        Returns:
            `input_ids`, `attention_mask`: (B, T); `keep`: (B, T) bool, true where the NEXT token is trained;
            `targets`: (N,) those next tokens, in the order of `keep`'s true entries; `tokens`: () real tokens.
        """
        multiple = self.pad_to_multiple_of
        longest = max(len(example.ids) for example in examples)
        width = -(-longest // multiple) * multiple
        input_ids = torch.full((len(examples), width), self.encoder.tokenizer.pad_token_id)
        attention_mask = torch.zeros((len(examples), width), dtype=torch.long)
        labels = torch.full((len(examples), width), IGNORED)
        for row, example in enumerate(examples):
            length = len(example.ids)
            input_ids[row, :length] = torch.tensor(example.ids)
            attention_mask[row, :length] = 1
            labels[row, :length] = torch.tensor(example.labels)
        following = torch.full_like(labels, IGNORED)
        following[:, :-1] = labels[:, 1:]
        keep = following != IGNORED
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "keep": keep,
            "targets": following[keep],
            "tokens": attention_mask.sum(),
        }

    def count(self, batch: Batch) -> int:
        """Trained tokens."""
        return batch["targets"].numel()

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        logits = model(batch["input_ids"], batch["attention_mask"], batch["keep"])  # (N, V)
        value = F.cross_entropy(logits.float(), batch["targets"], reduction="sum")
        correct = (logits.detach().argmax(-1) == batch["targets"]).sum()
        return LossSum(value, {"token_accuracy": correct})
