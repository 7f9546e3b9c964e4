"""What the stages that count tokens have in common: rows, packs or joined rows of trained tokens as batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from finetune.data.chat import Example
from finetune.data.encode import Encoder, encode_items
from finetune.data.rows import Sample
from finetune.recipe_data import DataSection
from finetune.stages.base import Batch, LossSum
from finetune.stages.batch import collate_rows
from finetune.stages.logps import token_logps


class TokenStage:
    """Loss = - sum over trained tokens of log p(token | tokens before it), unless the stage has one of its own."""

    unit = "tokens"
    rows: ClassVar[str] = "conversation"  # a value of ROWS_OF_STAGE

    def __init__(self, encoder: Encoder, data: DataSection, settings: Any, pad_to_multiple_of: int = 1) -> None:
        self.encoder = encoder
        self.data = data
        self.settings = settings
        self.pad_to_multiple_of = pad_to_multiple_of

    def encode(self, samples: Sequence[Sample]) -> list[Example]:
        return encode_items(self.encoder, self.data, self.rows, samples)

    def collate(self, items: Sequence[Example]) -> Batch:
        """As `collate_rows`."""
        pad_id = self.encoder.tokenizer.pad_token_id
        return collate_rows(items, pad_id, self.pad_to_multiple_of, self.data.padding_free)

    def count(self, batch: Batch) -> int:
        """Trained tokens."""
        return batch["targets"].numel()

    def loss(self, model: Any, batch: Batch) -> LossSum:
        logps, correct = token_logps(model, batch)  # (N,), (N,)
        return LossSum(-logps.sum(), {"token_accuracy": correct.sum()})

    def scores(self, means: Mapping[str, float]) -> dict[str, float]:
        """None: answers are scored."""
        return {}
