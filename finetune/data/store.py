"""Encoded examples on disk as a few flat arrays, memory-mapped: an example takes form only when it is asked for.

A store is a folder: `ids.npy`, `trained.npy` (a value a token), `offsets.npy`, `trained_counts.npy`, `file.npy`,
`line.npy` (a value an example, `offsets` one more), `marks.npy` (as many for each example, mostly none) and `index.json`
(the table of files, what the writer counted, checksums).
Arrays are loaded with `allow_pickle=False`.
"""

from __future__ import annotations

import json
import mmap
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from finetune.data.chat import IGNORED, Example
from finetune.data.flat import COLUMNS, FORMAT, StoreWriter, columns

BLOCK = 1 << 20  # bytes read at once by `ExampleStore.verify`
STOPS_AT_ONCE = 1 << 14  # examples whose trained ids `ExampleStore.stops` holds at once
READ = 1024  # examples that may be asked for until the pages they were on are let go of
BATCH = 1024  # examples that `ExampleStore.write` turns into arrays at once


class BrokenStoreError(Exception):
    """The folder is not a whole store of this format; the text says what is wrong with it."""


class ExampleStore(Sequence[Example]):
    """The examples of a folder, each built when asked for; pickles as its path.

    Attributes:
        ids: (tokens,) int32, all examples end to end.
        trained: (tokens,) bool, true where the token is trained.
        offsets: (examples + 1,) int64; example i is `ids[offsets[i]:offsets[i + 1]]`.
        trained_counts: (examples,) int64, trained tokens of each example.
        file: (examples,) int32 into `files`.
        line: (examples,) int64; -1 where `files[file[i]]` is the whole of `where`.
        files: the table of files.
        marks: (examples, marks an example) float32.
        counts: what the writer counted (rows, and what became of them).

    Raises:
        BrokenStoreError: no such folder, another format, files missing or cut short.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if index["format"] != FORMAT:
                raise BrokenStoreError(f"{folder}: format {index['format']}, this program reads {FORMAT}")
            examples, tokens = int(index["examples"]), int(index["tokens"])
            self.files: tuple[str, ...] = tuple(index["files"])
            self.counts: dict[str, int] = dict(index["counts"])
            self._crc32 = {name: int(index["crc32"][name]) for name in COLUMNS}
            self._maps: list[mmap.mmap] = []
            self._read = 0
            self.ids = self._mapped("ids", tokens)
            self.trained = self._mapped("trained", tokens)
            self.offsets = self._mapped("offsets", examples + 1)
            self.trained_counts = self._mapped("trained_counts", examples)
            self.file = self._mapped("file", examples)
            self.line = self._mapped("line", examples)
            marks = self._mapped("marks", int(index["marks"]))
            self.marks = marks.reshape(examples, -1) if examples and len(marks) else marks.reshape(examples, 0)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BrokenStoreError(f"{folder}: {error}") from None
        if self.offsets[0] != 0 or self.offsets[-1] != tokens:
            raise BrokenStoreError(f"{folder}: offsets do not span {tokens} tokens")

    def verify(self) -> None:
        """Reads every array once: truncation is seen on opening, this sees bytes that changed (about a second a GB).

        Raises:
            BrokenStoreError: an array is not what was written.
        """
        for name, expected in self._crc32.items():
            crc = 0
            with (self.folder / f"{name}.npy").open("rb") as file:
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                while part := file.read(BLOCK):
                    crc = zlib.crc32(part, crc)
            if crc != expected:
                raise BrokenStoreError(f"{self.folder}: {name}.npy has another checksum than index.json says")

    @classmethod
    def write(cls, folder: Path, examples: Iterable[Example], counts: Mapping[str, int] | None = None) -> ExampleStore:
        """A new store with these examples, streamed; `folder` appears when it is whole.

        Raises:
            FileExistsError: `folder` is there already.
            TypeError, ValueError: as `columns`.
        """
        with StoreWriter(folder) as writer:
            stream = iter(examples)
            while batch := list(islice(stream, BATCH)):
                writer.add(columns(batch))
            writer.finish(counts)
        return cls(folder)

    def __reduce__(self) -> tuple[type[ExampleStore], tuple[Path]]:
        return ExampleStore, (self.folder,)

    def __len__(self) -> int:
        return len(self.line)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]  # negative indices, IndexError
        self._read += 1
        if self._read > READ:
            self.let_go()
        start, end = self.offsets[i], self.offsets[i + 1]
        ids = self.ids[start:end]
        labels = np.where(self.trained[start:end], ids, np.int32(IGNORED))
        return Example(tuple(ids.tolist()), tuple(labels.tolist()), self.where(i), tuple(self.marks[i].tolist()))

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """(examples,) int64, tokens of each example."""
        return np.diff(self.offsets)

    def stops(self) -> set[int]:
        """Ids that examples end their training with: the last trained token of each."""
        found: set[int] = set()
        for start in range(0, len(self), STOPS_AT_ONCE):
            counts = self.trained_counts[start : start + STOPS_AT_ONCE]
            tokens = slice(self.offsets[start], self.offsets[min(start + STOPS_AT_ONCE, len(self))])
            ids = self.ids[tokens][self.trained[tokens]]  # (trained tokens of these examples,)
            found.update(ids[np.cumsum(counts)[counts > 0] - 1].tolist())
            self.let_go()
        return found

    def last_ids(self) -> set[int]:
        """Ids that examples end with, trained or not."""
        found: set[int] = set()
        for start in range(0, len(self), STOPS_AT_ONCE):
            found.update(self.ids[self.offsets[start + 1 : start + 1 + STOPS_AT_ONCE] - 1].tolist())
            self.let_go()
        return found

    def where(self, i: int) -> str:
        """The row that example `i` came from, as its `where`."""
        name, line = self.files[self.file[i]], int(self.line[i])
        return name if line < 0 else f"{name}:{line}"

    def let_go(self) -> None:
        """Unmaps the pages that were read, which would else count as this process's memory until all of the store is.

        They stay in the system's cache of files as long as it has room.
        """
        self._read = 0
        for pages in self._maps if hasattr(mmap, "MADV_DONTNEED") else ():
            pages.madvise(mmap.MADV_DONTNEED)

    def _mapped(self, name: str, length: int) -> np.ndarray:
        """One column, read only, its pages loaded when touched.

        Raises:
            ValueError: not an array of this kind and length; cut short.
            OSError: not there.
        """
        mode: Any = "r" if length else None  # an empty file can't be mapped
        array = np.load(self.folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False)
        if array.dtype != COLUMNS[name] or array.shape != (length,):
            raise ValueError(f"{name}.npy holds {array.dtype}{array.shape}, expected {(length,)}")
        if length:
            self._maps.append(array.base)
        return array.view(np.ndarray)
