"""Held-out rows taken by group: every row with the same value of a column falls on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from finetune.data.rows import Sample
from finetune.errors import DataError


def split_rows(
    samples: Sequence[Sample], by: str | None, eval_rows: int, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out samples. Stable: depends on seed and values only, never on the order of the rows.

    Groups are taken in the order of a hash of (seed, value) until at least `eval_rows` rows are held out. Without `by`
    a group is one distinct record, so that copies of a record can't fall on both sides.

    Raises:
        DataError: nothing would be left to train on.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        value = repr(sample.record) if by is None else repr(sample.record[by])
        groups.setdefault(hashlib.sha256(f"{seed}:{value}".encode()).hexdigest(), []).append(sample)
    held_out: set[str] = set()
    count = 0
    for key in sorted(groups):
        if count >= eval_rows:
            break
        held_out.add(key)
        count += len(groups[key])
    if len(held_out) == len(groups):
        raise DataError(
            f"data.split.eval_rows: {eval_rows} held-out rows leave nothing to train on; "
            f"there are {len(samples)} rows in {len(groups)} groups"
        )
    train = [sample for key, members in groups.items() if key not in held_out for sample in members]
    evaluate = [sample for key in sorted(held_out) for sample in groups[key]]
    return train, evaluate
