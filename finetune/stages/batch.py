"""Encoded rows to tensors: the one place where rows are filled up and labels are shifted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from finetune.data.chat import IGNORED, Example
from finetune.data.pack import Pack, join
from finetune.stages.base import Batch

ON_HOST = ("bounds", "documents")


def collate_rows(rows: Sequence[Example], pad_id: int, multiple: int = 1, padding_free: bool = False) -> Batch:
    """Tensors, one row an example or pack, filled up on the right.

    Args:
        multiple: the width is a multiple of it.
        padding_free: all of them become one row of documents, so that nothing is filled up.

    Returns:
        `input_ids`: (B, T); `kept`: (N,) positions b T + t where the NEXT token is trained and of the same document;
        `targets`: (N,) those next tokens; `rows`: (N,) the row in B of each;
        `tokens`: () real tokens. For examples `attention_mask` (B, T); for packs, instead of it, `position_ids` (B, T)
        from 0 in each document (what fills up a row is a document of its own) and `bounds` (documents + 1,), where
        each of all rows' documents begins, and the end.
    """
    rows = [join(rows)] if padding_free else rows
    width = -(-max(len(row.ids) for row in rows) // multiple) * multiple
    input_ids = torch.full((len(rows), width), pad_id)
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
    kept = (following != IGNORED).flatten().nonzero()[:, 0]
    packed = any(isinstance(row, Pack) for row in rows)
    starts = [*(position_ids.flatten() == 0).nonzero()[:, 0].tolist(), position_ids.numel()]
    of_packs = {"position_ids": position_ids, "bounds": torch.tensor(starts, dtype=torch.int32)}
    return {
        "input_ids": input_ids,
        **(of_packs if packed else {"attention_mask": attention_mask}),
        "kept": kept,
        "targets": following.flatten()[kept],
        "rows": kept // width,
        "tokens": attention_mask.sum(),
    }


def model_inputs(batch: Batch) -> tuple[Any, ...]:
    """What `TrainedPositions` takes, out of a batch of `collate_rows` or `collate_shared`."""
    inputs = (
        batch["input_ids"], batch.get("attention_mask"), batch["kept"], batch.get("position_ids"), batch.get("bounds"),
    )  # fmt: skip
    # As numbers: DDP would move a tensor to the device, and the host would wait to have it back.
    return (*inputs, tuple(map(tuple, batch["documents"].tolist()))) if "documents" in batch else inputs


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the model is. What the host reads of it stays: it would wait for the device to have it back."""
    return {name: tensor if name in ON_HOST else tensor.to(device) for name, tensor in batch.items()}
