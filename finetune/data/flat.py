"""Examples as flat arrays, and the writer of a store of them (see store.py): streamed, whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from finetune.data.chat import IGNORED, Example

FORMAT = 2
STALE = 24 * 3600  # seconds after which another writer's temporary folder is taken for left behind
COLUMNS: dict[str, type[np.generic]] = {
    "ids": np.int32, "trained": np.bool_, "offsets": np.int64, "trained_counts": np.int64, "file": np.int32,
    "line": np.int64, "marks": np.float32,
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Some examples as arrays; cheap to send from one process to another.

    Attributes:
        ids: (tokens,) int32, all examples end to end.
        trained: (tokens,) bool.
        lengths: (examples,) int64, tokens of each.
        files: the distinct files of `where`, in the order met.
        file: (examples,) int32, which of them.
        line: (examples,) int64; -1 where `where` is not of the form `file:line` and stands in `files` as a whole.
        marks: (examples, marks an example) float32.
    """

    ids: np.ndarray
    trained: np.ndarray
    lengths: np.ndarray
    files: tuple[str, ...]
    file: np.ndarray
    line: np.ndarray
    marks: np.ndarray


def columns(examples: Sequence[Example]) -> Columns:
    """The examples as arrays.

    Raises:
        TypeError: a subclass of Example (a pack): its further fields would be lost.
        ValueError: a label that is neither the token itself nor IGNORED; examples with different numbers of marks.
    """
    for example in examples:
        if type(example) is not Example:
            raise TypeError(f"{example.where}: a store holds plain examples, not {type(example).__name__}")
    lengths = np.fromiter((len(example.ids) for example in examples), np.int64, len(examples))
    total = int(lengths.sum())
    ids = np.fromiter(chain.from_iterable(example.ids for example in examples), np.int32, total)
    labels = np.fromiter(chain.from_iterable(example.labels for example in examples), np.int32, total)
    trained = labels != IGNORED
    if not np.array_equal(labels[trained], ids[trained]):
        raise ValueError("a label is neither its own token nor IGNORED")
    table: dict[str, int] = {}
    places = [_place(example.where) for example in examples]
    file = np.fromiter((table.setdefault(name, len(table)) for name, _ in places), np.int32, len(places))
    line = np.fromiter((number for _, number in places), np.int64, len(places))
    marks = np.asarray([example.marks for example in examples], np.float32)
    return Columns(ids, trained, lengths, tuple(table), file, line, marks)


def _place(where: str) -> tuple[str, int]:
    """`file:line` in its two parts, so that joining them gives `where` back exactly; else (where, -1)."""
    name, colon, digits = where.rpartition(":")
    plain = digits.isascii() and digits.isdigit() and len(digits) <= 18 and (digits == "0" or digits[0] != "0")
    return (name, int(digits)) if colon and plain else (where, -1)


class StoreWriter:
    """Writes a store part by part into a temporary folder beside it; `finish` gives it its name, all or nothing.

    Left without `finish` (an error), it removes what it wrote. So it does at its start with what a killed writer of
    the same store left behind more than a day ago.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{folder.name}."
        for left in folder.parent.iterdir():
            if left.name.startswith(prefix) and time.time() - left.lstat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
        self._temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        self._arrays = {name: _GrowingArray(self._temporary / f"{name}.npy", kind) for name, kind in COLUMNS.items()}
        self._arrays["offsets"].append(np.zeros(1, np.int64))
        self._files: dict[str, int] = {}
        self._end = 0  # tokens so far

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for array in self._arrays.values():
            array.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def examples(self) -> int:
        """How many have been added."""
        return self._arrays["line"].length

    def add(self, part: Columns) -> None:
        """Appends the examples of `part`."""
        ends = np.cumsum(part.lengths)
        before = np.concatenate([[0], np.cumsum(part.trained, dtype=np.int64)])  # [t]: trained tokens before token t
        table = [self._files.setdefault(name, len(self._files)) for name in part.files]
        self._arrays["ids"].append(part.ids)
        self._arrays["trained"].append(part.trained)
        self._arrays["offsets"].append(self._end + ends)
        self._arrays["trained_counts"].append(before[ends] - before[ends - part.lengths])
        self._arrays["file"].append(np.asarray(table, np.int32)[part.file])
        self._arrays["line"].append(part.line)
        self._arrays["marks"].append(part.marks.reshape(-1))
        self._end += len(part.ids)

    def finish(self, counts: Mapping[str, int] | None = None) -> None:
        """Puts the store in its place. `counts`: what the caller wants to find again in `store.counts`.

        Raises:
            FileExistsError: `folder` is there already.
        """
        index = {
            "format": FORMAT, "examples": self.examples, "tokens": self._end, "files": list(self._files),
            "marks": self._arrays["marks"].length,
            "counts": dict(counts or {}), "crc32": {name: array.crc32 for name, array in self._arrays.items()},
        }  # fmt: skip
        for array in self._arrays.values():
            array.finish()
        with (self._temporary / "index.json").open("w", encoding="utf-8") as file:
            json.dump(index, file, indent=1)
            _to_disk(file)
        self._temporary.chmod(0o755)  # mkdtemp lets nobody else read
        if self.folder.exists():
            raise FileExistsError(self.folder)
        try:
            self._temporary.rename(self.folder)
        except OSError:
            if self.folder.exists():  # another process came first
                raise FileExistsError(self.folder) from None
            raise


class _GrowingArray:
    """A one-dimensional .npy file that grows; its header is written again at the end.

    numpy pads the header so that the first axis may grow (numpy.lib.format, GROWTH_AXIS_MAX_DIGITS).
    """

    def __init__(self, path: Path, kind: type[np.generic]) -> None:
        self.kind = np.dtype(kind)
        self.length = 0
        self.crc32 = 0  # of the values
        self._file = path.open("wb")
        self._header()

    def append(self, values: np.ndarray) -> None:
        content = np.ascontiguousarray(values, self.kind).data
        self._file.write(content)
        self.crc32 = zlib.crc32(content, self.crc32)
        self.length += len(values)

    def finish(self) -> None:
        end = self._file.tell()
        self._file.seek(0)
        self._header()
        assert self._file.tell() + self.length * self.kind.itemsize == end
        _to_disk(self._file)
        self._file.close()

    def close(self) -> None:
        self._file.close()

    def _header(self) -> None:
        fields = {"descr": self.kind.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, fields)


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
