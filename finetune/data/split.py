"""Held-out rows taken out of the training rows: by group, or by time. No group falls on both sides."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.data.duplicates import first_of
from finetune.data.spool import SampleFile
from finetune.errors import DataError, did_you_mean
from finetune.recipe_data import SplitSection

Halves = tuple[SampleFile, SampleFile]  # to train on, held out


def split_samples(samples: SampleFile, section: SplitSection, seed: int) -> Halves:
    """Training and held-out samples as the recipe's `data.split` says.

    Raises:
        DataError: a column or a time that a row lacks, or a split that leaves one side empty.
    """
    if section.time_column is not None and section.train_before is not None:
        return split_by_time(samples, section.time_column, section.train_before, section.by)
    assert section.eval_rows is not None  # the section holds one of the two
    return split_rows(samples, section.by, section.eval_rows, seed)


def split_rows(samples: SampleFile, by: str | None, eval_rows: int, seed: int) -> Halves:
    """A random split. Stable: depends on seed and values only, never on the order of the rows.

    Groups are taken in the order of a hash of (seed, value) until at least `eval_rows` rows are held out. Without `by`
    a group is all rows that share a record or, but for case, width and white space, a prompt or a conversation, so that
    copies can't fall on both sides.

    Raises:
        DataError: rows without the column `by`; nothing would be left to train on.
    """
    keys = _groups(samples, by, seed)
    groups, first, group, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    held_out = np.cumsum(sizes) - sizes < eval_rows  # of each group: those before it hold too few
    if held_out.all():
        raise DataError(
            f"data.split.eval_rows: {eval_rows} held-out rows leave nothing to train on; "
            f"there are {len(samples)} rows in {len(groups)} groups"
        )
    train, evaluate = np.flatnonzero(~held_out[group]), np.flatnonzero(held_out[group])
    train = train[np.argsort(first[group[train]], kind="stable")]  # groups in the order of their first rows
    evaluate = evaluate[np.argsort(group[evaluate], kind="stable")]  # groups in the order of their hashes
    return samples.pick(train), samples.pick(evaluate)


def split_by_time(samples: SampleFile, column: str, before: str, by: str | None = None) -> Halves:
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
    problems: list[str] = []
    late = np.zeros(len(samples), bool)
    for index, sample in enumerate(samples):
        try:
            if column not in sample.record:
                raise ValueError(f"is missing{did_you_mean(column, map(str, sample.record))}")
            late[index] = _time(sample.record[column]) >= boundary
        except ValueError as error:
            problems.append(f"{sample.where}: {column}: {error}")
    if problems:
        raise DataError(problems)
    if by is not None:
        values = _groups(samples, by, 0)
        late = np.isin(values, np.unique(values[late]))
    train, evaluate = samples.pick(~late), samples.pick(late)
    if not train or not evaluate:
        what = "hold out" if train else "train on"
        why = f"; every {by!r} has a row from then on" if by is not None and evaluate else ""
        raise DataError(f"data.split.train_before: {before} leaves nothing to {what} of {len(samples)} rows{why}")
    return train, evaluate


def group_of(record: Mapping[str, Any], by: str) -> Any:
    """The value of column `by`, or of `column.key` inside an object; a column whose own name has a dot goes first.

    Raises:
        KeyError: it is not there.
    """
    if by in record:
        return record[by]
    value: Any = record
    for key in by.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(by)
        value = value[key]
    return value


def _groups(samples: SampleFile, by: str | None, seed: int) -> np.ndarray:
    """(samples,) S16, a hash of (seed, value) for the group of each sample."""
    if by is None:
        return _copies_together(samples, seed)
    problems: list[str] = []

    def values() -> Iterator[str]:
        for sample in samples:
            try:
                yield repr(group_of(sample.record, by))
            except KeyError:
                problems.append(f"{sample.where}: {by}: is missing{did_you_mean(by, map(str, sample.record))}")
                yield ""

    keys = _hashes(values(), len(samples), seed)
    if problems:
        raise DataError(problems)
    return keys


def _hashes(values: Iterable[str], count: int, seed: int) -> np.ndarray:
    return np.fromiter((hashlib.sha256(f"{seed}:{value}".encode()).digest()[:16] for value in values), "S16", count)


def _copies_together(samples: SampleFile, seed: int) -> np.ndarray:
    """The group is the least record of all that hang together through an equal record, prompt or conversation."""
    records = _hashes((repr(sample.record) for sample in samples), len(samples), seed)
    first = _connected([records, samples.facts("normalised"), samples.facts("prompt")])
    least: dict[int, str] = {}
    for row in np.flatnonzero(np.isin(first, first[records != records[first]])):  # groups of several records
        value, group = repr(samples[int(row)].record), int(first[row])
        least[group] = min(value, least.get(group, value))
    keys = records[first]
    if least:
        groups = np.fromiter(sorted(least), np.int64, len(least))
        named = _hashes((least[group] for group in groups.tolist()), len(least), seed)
        mixed = np.isin(first, groups)
        keys[mixed] = named[np.searchsorted(groups, first[mixed])]
    return keys


def _connected(columns: Sequence[np.ndarray]) -> np.ndarray:
    """(rows,) the first row of all that hang together over an equal key in some column; an empty key is equal to none.

    The least number known goes around in every set of equal keys until nothing changes; each round also jumps to what
    the row of that number knows, so that a chain of n rows takes about log n rounds.
    """
    rows = np.arange(len(columns[0]))
    sets = [first_of(keys) for keys in columns]
    known = rows
    while True:
        before = known
        for members in sets:
            least = np.full(len(rows), len(rows))
            np.minimum.at(least, members, known)
            known = least[members]
        known = known[known]
        if np.array_equal(known, before):
            return known


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
