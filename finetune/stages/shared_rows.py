"""Pairs to one row in which what both answers begin with, the prompt and sometimes more, stands once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.data.chat import IGNORED, Example
from finetune.data.items import Pair
from finetune.stages.base import Batch


def collate_shared(pairs: Sequence[Pair], pad_id: int, multiple: int = 1) -> Batch:
    """All pairs end to end in a row: each chosen conversation, then what of the rejected one differs from it.

    Args:
        multiple: the width is a multiple of it; what fills up is a document of its own.

    Returns:
        As `collate_rows` of all chosen, then all rejected conversations, but for where things stand: `input_ids`,
        `position_ids`: (1, T), positions going on from the shared beginning; `kept`: (N,) places in T, one of them
        twice where both answers train on what follows it; `targets`, `rows`: (N,); `documents`: (D, 2), see
        SharedPrefixes. `tokens`: () those of both conversations whole: a number of the data, not of how it is computed.
    """
    ids: list[int] = []
    positions: list[int] = []
    documents: list[tuple[int, int]] = []
    trained: list[tuple[int, int, int]] = []  # place, target, row
    for row, pair in enumerate(pairs):
        chosen, rejected = pair.chosen, pair.rejected
        begin, shared = len(ids), common_prefix(chosen.ids, rejected.ids)
        rest = rejected.ids[shared:]
        ids += [*chosen.ids, *rest]
        positions += [*range(len(chosen.ids)), *range(shared, len(rejected.ids))]
        documents += [(0, len(chosen.ids)), (shared, len(rest))] if rest else [(0, len(chosen.ids))]
        trained += [(begin + t, target, row) for t, target in _trained(chosen)]
        skipped = len(chosen.ids) - shared  # what stands between the two parts of the rejected conversation
        trained += [
            (begin + t + (skipped if t >= shared else 0), target, len(pairs) + row) for t, target in _trained(rejected)
        ]
    if fill := -len(ids) % multiple:
        ids += [pad_id] * fill
        positions += range(fill)
        documents.append((0, fill))
    kept, targets, rows = torch.tensor(trained, dtype=torch.long).reshape(-1, 3).T.contiguous()
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "documents": torch.tensor(documents),
        "kept": kept,
        "targets": targets,
        "rows": rows,
        "tokens": torch.tensor(sum(part.length for pair in pairs for part in pair.examples)),
    }


def common_prefix(some: Sequence[int], others: Sequence[int]) -> int:
    """How many ids both begin with."""
    apart = (i for i, (one, other) in enumerate(zip(some, others, strict=False)) if one != other)
    return next(apart, min(len(some), len(others)))


def _trained(example: Example) -> list[tuple[int, int]]:
    """Positions whose next token is trained, and that token."""
    return [(t, label) for t, label in enumerate(example.labels[1:]) if label != IGNORED]
