"""Parquet and Arrow files to rows of plain Python values, a thousand rows at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.findings import DataFile, Findings
from finetune.data.plain import plain
from finetune.data.rows import Row
from finetune.errors import DataError, first_line

BATCH = 1024  # rows turned into Python values at once


def read_parquet(file: DataFile, findings: Findings) -> Iterator[Row]:
    """Rows counted from 1; memory holds one batch of one row group."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        findings.problem(f"{file.label}: reading Parquet needs pyarrow; pip install pyarrow")
        return
    try:
        with pq.ParquetFile(file.path, pre_buffer=False) as table:
            yield from _rows(file, table.iter_batches(batch_size=BATCH), findings)
    except (pa.ArrowException, OSError) as error:
        findings.problem(f"{file.label}: not a readable Parquet file: {first_line(error)}")


def read_arrow(file: DataFile, findings: Findings) -> Iterator[Row]:
    """Rows of an Arrow IPC file or stream, counted from 1."""
    try:
        import pyarrow as pa
    except ImportError:
        findings.problem(f"{file.label}: reading Arrow needs pyarrow; pip install pyarrow")
        return
    try:
        with pa.memory_map(str(file.path)) as source:
            if source.read(6) == b"ARROW1":
                source.seek(0)
                table = pa.ipc.open_file(source)
                batches: Iterator[Any] = (table.get_batch(index) for index in range(table.num_record_batches))
            else:
                source.seek(0)
                batches = iter(pa.ipc.open_stream(source))
            yield from _rows(file, _sliced(batches), findings)
    except (pa.ArrowException, OSError) as error:
        findings.problem(f"{file.label}: not a readable Arrow file: {first_line(error)}")


def saved_dataset(folder: Path, split: str | None) -> list[Path] | None:
    """The Arrow files, in order, of a folder written by `datasets` save_to_disk; None for any other folder.

    Raises:
        DataError: several splits and none chosen, or one that isn't there.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return saved_dataset(folder / choose_split(str(folder), split, splits), None)
    if not (folder / "state.json").is_file():
        return None
    if split is not None:
        raise DataError(f"{folder}: split: this saved dataset is one split; leave `split` out")
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / part["filename"] for part in state["_data_files"]]


def choose_split(label: str, split: str | None, splits: list[str]) -> str:
    """The split asked for, else `train`, else the only one.

    Raises:
        DataError: it isn't there.
    """
    chosen = split or ("train" if "train" in splits else splits[0] if len(splits) == 1 else None)
    if chosen not in splits:
        raise DataError(f"{label}: {f'no split {split!r}' if split else 'no split chosen'}; say `split:` with one of "
                        f"{', '.join(splits)}")  # fmt: skip
    return chosen


def _rows(file: DataFile, batches: Iterator[Any], findings: Findings) -> Iterator[Row]:
    number = 0
    for batch in batches:
        doubled = sorted({name for name in batch.schema.names if batch.schema.names.count(name) > 1})
        if doubled:
            findings.problem(f"{file.label}: column given twice: {', '.join(doubled)}")
            return
        try:
            listed = batch.to_pylist()
        except ValueError as error:  # text that is not UTF-8, a time beyond Python's range
            findings.problem(f"{file.label}: rows {number + 1} to {number + batch.num_rows}: {first_line(error)}")
            listed = []
        for values in listed:
            number += 1
            row: dict[str, Any] = {}
            before = findings.count
            for name, value in values.items():
                if isinstance(value, float) and math.isnan(value):
                    findings.note(f"{file.label}: {name}: NaN is read as null")
                try:
                    row[name] = plain(value)
                except ValueError as error:
                    findings.problem(f"{file.label}:{number}: {name}: {error}")
            if findings.count == before:
                yield Row(row, file.label, number)


def _sliced(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            yield batch.slice(start, BATCH)
