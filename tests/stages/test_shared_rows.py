"""Pairs as one row: every id, position, document and trained place written out."""

from __future__ import annotations

import pytest

from finetune.data.chat import IGNORED, Example
from finetune.data.items import Pair
from finetune.stages.shared_rows import collate_shared, common_prefix


def example(ids: tuple[int, ...], answer: int) -> Example:
    """Its last `answer` ids are trained."""
    return Example(ids, (IGNORED,) * (len(ids) - answer) + ids[len(ids) - answer :], "row")


def test_two_pairs():
    """Prompt 1 2 3 with answers 4 5 6 and 4 7: the 4 that both begin with stands once, and is predicted from the 3 by both
    rows. Prompt 8 with answers 9 and 5: position 0 of the second pair predicts both. Filled up to a multiple of 4.

    Row 0 is the first chosen conversation, row 1 the second; rows 2 and 3 are the rejected ones.
    """
    pairs = [
        Pair(example((1, 2, 3, 4, 5, 6), 3), example((1, 2, 3, 4, 7), 2)),
        Pair(example((8, 9), 1), example((8, 5), 1)),
    ]
    batch = collate_shared(pairs, pad_id=0, multiple=4)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 4, 0, 1, 1, 0, 1]]
    assert batch["documents"].tolist() == [[0, 6], [4, 1], [0, 2], [1, 1], [0, 2]]
    assert batch["tokens"].item() == 6 + 5 + 2 + 2  # of the data, as without sharing
    found = [*zip(batch["kept"].tolist(), batch["targets"].tolist(), batch["rows"].tolist(), strict=True)]
    assert found == [(2, 4, 0), (3, 5, 0), (4, 6, 0), (2, 4, 2), (3, 7, 2), (7, 9, 1), (7, 5, 3)]


@pytest.mark.parametrize(("chosen", "rejected", "documents", "ids"), [
    ((1, 2, 3), (1, 2, 3, 4), [[0, 3], [3, 1]], [1, 2, 3, 4]),  # the chosen one begins the rejected one
    ((1, 2, 3, 4), (1, 2), [[0, 4]], [1, 2, 3, 4]),  # the other way round: nothing of it is left
    ((1, 2), (1, 2), [[0, 2]], [1, 2]),
    ((1, 2), (3, 4, 5), [[0, 2], [0, 3]], [1, 2, 3, 4, 5]),  # nothing in common
])  # fmt: skip
def test_beginnings(chosen, rejected, documents, ids):
    """What is left of the rejected answer follows; every trained id but a row's first is predicted, at its own place."""
    batch = collate_shared([Pair(example(chosen, len(chosen)), example(rejected, len(rejected)))], pad_id=0)
    assert batch["input_ids"].tolist() == [ids]
    assert batch["documents"].tolist() == documents
    assert batch["targets"].tolist() == [*chosen[1:], *rejected[1:]]
    assert batch["rows"].tolist() == [0] * (len(chosen) - 1) + [1] * (len(rejected) - 1)
    shared = common_prefix(chosen, rejected)
    skipped = len(chosen) - shared
    expected = [t + skipped if t >= shared else t for t in range(len(rejected) - 1)]
    assert batch["kept"].tolist() == [*range(len(chosen) - 1), *expected]


def test_nothing_to_train_on():
    """A pair that only takes part in the exchange of gradients."""
    blank = Pair(example((1, 2), 1), example((1, 3), 1)).blank()
    batch = collate_shared([blank], pad_id=0)
    assert [batch[name].tolist() for name in ("kept", "targets", "rows")] == [[], [], []]
    assert batch["tokens"].item() == 4
