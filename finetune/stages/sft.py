"""Supervised fine-tuning: cross-entropy on the assistant's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from finetune.data.chat import IGNORED, ChatEncoder, Example
from finetune.data.length import encode_all
from finetune.data.pack import Pack, join
from finetune.data.rows import Sample
from finetune.recipe import DataSection
from finetune.stages.base import Batch, LossSum


class Sft:
    """Loss = - sum over trained tokens of log p(token | tokens before it)."""

    def __init__(
        self, encoder: ChatEncoder, data: DataSection, pad_to_multiple_of: int = 1, padding_free: bool = False
    ) -> None:
        self.encoder = encoder
        self.data = data
        self.pad_to_multiple_of = pad_to_multiple_of
        self.padding_free = padding_free

    def encode(self, samples: Sequence[Sample]) -> list[Example]:
        examples, _counts = encode_all(self.encoder, samples, self.data.max_length, self.data.too_long)
        return examples

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Tensors, one row an example or pack, filled up on the right; the one place where labels are shifted.

        With `padding_free` all of them become one row of documents, so that nothing is filled up.

        Returns:
            `input_ids`: (B, T); `keep`: (B, T) bool, true where the NEXT token is trained and of the same document;
            `targets`: (N,) those next tokens, in the order of `keep`'s true entries; `tokens`: () real tokens. For
            examples `attention_mask` (B, T); for packs, instead of it, `position_ids` (B, T) from 0 in each document
            (what fills up a row is a document of its own).
        """
        rows = [join(examples)] if self.padding_free else examples
        multiple = self.pad_to_multiple_of
        width = -(-max(len(row.ids) for row in rows) // multiple) * multiple
        input_ids = torch.full((len(rows), width), self.encoder.tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), IGNORED)
        attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
        position_ids = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            length = len(row.ids)
            input_ids[index, :length] = torch.tensor(row.ids)
            labels[index, :length] = torch.tensor(row.labels)
            attention_mask[index, :length] = 1
            documents = row.lengths if isinstance(row, Pack) else (length,)
            position_ids[index] = torch.cat([torch.arange(n) for n in (*documents, width - length)])
        following = torch.full_like(labels, IGNORED)
        following[:, :-1] = labels[:, 1:].masked_fill(position_ids[:, 1:] == 0, IGNORED)  # 0: another document starts
        keep = following != IGNORED
        packed = any(isinstance(row, Pack) for row in rows)
        return {
            "input_ids": input_ids,
            **({"position_ids": position_ids} if packed else {"attention_mask": attention_mask}),
            "keep": keep,
            "targets": following[keep],
            "tokens": attention_mask.sum(),
        }

    def count(self, batch: Batch) -> int:
        """Trained tokens."""
        return batch["targets"].numel()

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        inputs = batch["input_ids"], batch.get("attention_mask"), batch["keep"], batch.get("position_ids")
        logits = model(*inputs)  # (N, V)
        value = F.cross_entropy(logits.float(), batch["targets"], reduction="sum")
        correct = (logits.detach().argmax(-1) == batch["targets"]).sum()
        return LossSum(value, {"token_accuracy": correct})
