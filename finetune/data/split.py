"""Held-out rows taken out of the training rows: by group, or by time. No group falls on both sides."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from typing import Any

from finetune.data.duplicates import fingerprint
from finetune.data.rows import Sample
from finetune.errors import DataError, did_you_mean
from finetune.recipe import SplitSection

Halves = tuple[list[Sample], list[Sample]]  # to train on, held out


def split_samples(samples: Sequence[Sample], section: SplitSection, seed: int) -> Halves:
    """Training and held-out samples as the recipe's `data.split` says.

    Raises:
        DataError: a column or a time that a row lacks, or a split that leaves one side empty.
    """
    if section.time_column is not None and section.train_before is not None:
        return split_by_time(samples, section.time_column, section.train_before, section.by)
    assert section.eval_rows is not None  # the section holds one of the two
    return split_rows(samples, section.by, section.eval_rows, seed)


def split_rows(samples: Sequence[Sample], by: str | None, eval_rows: int, seed: int) -> Halves:
    """A random split. Stable: depends on seed and values only, never on the order of the rows.

    Groups are taken in the order of a hash of (seed, value) until at least `eval_rows` rows are held out. Without `by`
    a group is all rows that share a record or, but for case, width and white space, a prompt or a conversation, so that
    copies can't fall on both sides.

    Raises:
        DataError: rows without the column `by`; nothing would be left to train on.
    """
    groups: dict[str, list[Sample]] = {}
    for sample, value in zip(samples, _groups(samples, by), strict=True):
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


def split_by_time(samples: Sequence[Sample], column: str, before: str, by: str | None = None) -> Halves:
    """Rows before a time are trained on, rows from it on are held out; both in their order.

    With `by`, a group that has a row from that time on is held out whole: what is trained on is older, and about others.
    `before` and text in the column are ISO 8601 (`2022-10-31`, `2022-10-31T09:30:00Z`, `2022-10`, `2022`); a time without
    a zone counts as UTC.

    Raises:
        DataError: every row whose time can't be read; a side that would be empty.
    """
    try:
        boundary = _time(before)
    except ValueError as error:
        raise DataError(f"data.split.train_before: {error}") from None
    problems, late = [], []
    for sample in samples:
        try:
            if column not in sample.record:
                raise ValueError(f"is missing{did_you_mean(column, map(str, sample.record))}")
            late.append(_time(sample.record[column]) >= boundary)
        except ValueError as error:
            problems.append(f"{sample.where}: {column}: {error}")
    if problems:
        raise DataError(problems)
    if by is not None:
        values = _groups(samples, by)
        late_groups = {value for value, is_late in zip(values, late, strict=True) if is_late}
        late = [value in late_groups for value in values]
    train = [sample for sample, is_late in zip(samples, late, strict=True) if not is_late]
    evaluate = [sample for sample, is_late in zip(samples, late, strict=True) if is_late]
    if not train or not evaluate:
        what = "hold out" if train else "train on"
        why = f"; every {by!r} has a row from then on" if by is not None and evaluate else ""
        raise DataError(f"data.split.train_before: {before} leaves nothing to {what} of {len(samples)} rows{why}")
    return train, evaluate


def _groups(samples: Sequence[Sample], by: str | None) -> list[str]:
    """The group of each sample, as text."""
    if by is None:
        return _copies_together(samples)
    problems = [
        f"{sample.where}: {by}: is missing{did_you_mean(by, map(str, sample.record))}"
        for sample in samples
        if by not in sample.record
    ]
    if problems:
        raise DataError(problems)
    return [repr(sample.record[by]) for sample in samples]


def _copies_together(samples: Sequence[Sample]) -> list[str]:
    """The least record of all that hang together through an equal record, prompt or conversation (union-find)."""
    parents: dict[str | bytes, str | bytes] = {}

    def root(key: str | bytes) -> str | bytes:
        while parents.setdefault(key, key) != key:
            parents[key] = key = parents[parents[key]]
        return key

    records = [repr(sample.record) for sample in samples]
    for sample, record in zip(samples, records, strict=True):
        if sample.messages:
            digests = fingerprint(sample)
            for digest in (digests.normalised, digests.prompt):
                if digest is not None:
                    parents[root(digest)] = root(record)
    least: dict[str | bytes, str] = {}
    for record in records:
        key = root(record)
        least[key] = min(record, least.get(key, record))
    return [least[root(record)] for record in records]


def _time(value: Any) -> dt.datetime:
    if isinstance(value, int) and not isinstance(value, bool) and 1800 <= value <= 2200:
        value = str(value)
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"[0-9]{4}(-[0-9]{2})?", text):
            text += "-01-01" if len(text) == 4 else "-01"
        with contextlib.suppress(ValueError):
            value = dt.datetime.fromisoformat(text)
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if not isinstance(value, dt.datetime):
        raise ValueError(f"a time as 2022-10-31 or 2022-10-31T09:30:00Z is needed, got {value!r}")
    return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value
