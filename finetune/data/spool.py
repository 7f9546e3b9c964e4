"""Samples on disk: in memory a row leaves its digests and a few numbers, however long it is.

A Spool is one temporary file that only grows, a SampleFile a choice of its samples in some order. Splitting, screening
and mixing make new choices; no sample is moved or held.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from finetune.data.duplicates import Print, fingerprint
from finetune.data.processes import CHUNK, chunked
from finetune.data.rows import Sample

# What is kept in memory of a sample: the digests of duplicates.Print (`prompt` is empty where nobody asks anything), the
# number of its source, and where it comes from: `file` and `task` are numbers into a table of names.
FACTS = np.dtype(
    [
        ("raw", "S16"), ("normalised", "S16"), ("prompt", "S16"), ("source", np.int32), ("file", np.int32),
        ("line", np.int64), ("task", np.int16),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Some samples as they go between processes and to disk; iterating makes them samples again.

    Attributes:
        pickles: one a sample. Made and read by this program only, through pipes and a file without a name.
        facts: (samples,) FACTS; `source` is 0.
        files, tasks: the names that `facts` numbers.
    """

    pickles: list[bytes]
    facts: np.ndarray
    files: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Sample]:
        return map(_read, self.pickles)

    def __len__(self) -> int:
        return len(self.pickles)


def block(samples: Sequence[Sample]) -> Block:
    """The samples with their digests: the work that a worker can take over."""
    facts = np.zeros(len(samples), FACTS)
    files: dict[str, int] = {}
    tasks: dict[str, int] = {}
    for index, sample in enumerate(samples):
        digests = fingerprint(sample) if sample.messages else Print(b"", b"", None)
        file, line = place(sample.where)
        facts[index] = (
            digests.raw, digests.normalised, digests.prompt or b"", 0, files.setdefault(file, len(files)), line,
            tasks.setdefault(sample.task, len(tasks)),
        )  # fmt: skip
    return Block([_write(sample) for sample in samples], facts, tuple(files), tuple(tasks))


def place(where: str) -> tuple[str, int]:
    """`file:line` in its two parts; (where, -1) for anything else."""
    file, colon, line = where.rpartition(":")
    return (file, int(line)) if colon and line.isascii() and line.isdigit() else (where, -1)


class Spool:
    """A temporary file of samples that only grows; the system removes it with the process, however that ends.

    It lies where Python's `tempfile` puts it (TMPDIR). Reading is safe in forked processes and threads, adding is not.

    Attributes:
        files, tasks: names in the order of their numbers in `facts`.
        source_of_file: file to the number of the first source that it came in.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="finetune-")  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        self._end = 0
        self._starts, self._facts = _Growing(np.dtype(np.int64)), _Growing(FACTS)
        self.files: dict[str, int] = {}
        self.tasks: dict[str, int] = {}
        self.source_of_file: dict[str, int] = {}

    def add(self, part: Block, source: int = 0) -> None:
        """Appends samples of one source."""
        sizes = np.fromiter(map(len, part.pickles), np.int64, len(part))
        self._file.writelines(part.pickles)
        self._file.flush()
        self._starts.add(self._end + np.cumsum(sizes) - sizes)
        self._end += int(sizes.sum())
        facts = part.facts.copy()
        facts["source"] = source
        for column, names, table in (("file", part.files, self.files), ("task", part.tasks, self.tasks)):
            numbers = np.asarray([table.setdefault(name, len(table)) for name in names], np.int64)
            facts[column] = numbers[facts[column]]
        for name in part.files:
            self.source_of_file.setdefault(name, source)
        self._facts.add(facts)

    def replace(self, index: int, sample: Sample) -> int:
        """Appends what stands for another sample from now on, of the same source; its number."""
        self.add(block([sample]), int(self.facts["source"][index]))
        return len(self) - 1

    @property
    def facts(self) -> np.ndarray:
        """(samples,) FACTS."""
        return self._facts.values

    @property
    def starts(self) -> np.ndarray:
        """(samples,) int64, where each sample's bytes begin."""
        return self._starts.values

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, index: int) -> bytes:
        """The pickle of one sample."""
        start = int(self.starts[index])
        end = int(self.starts[index + 1]) if index + 1 < len(self) else self._end
        return os.pread(self._file.fileno(), end - start, start)

    def samples(self) -> SampleFile:
        """All that are in it now, in the order they were added."""
        return SampleFile(self, np.arange(len(self)))


class _Growing:
    """A one-dimensional array that grows by a quarter; in place, where the system can and nobody looks at it."""

    def __init__(self, kind: np.dtype) -> None:
        self._room = np.zeros(CHUNK, kind)
        self._length = 0

    @property
    def values(self) -> np.ndarray:
        return self._room[: self._length]

    def add(self, values: np.ndarray) -> None:
        end = self._length + len(values)
        if end > len(self._room):
            size = max(end, len(self._room) * 5 // 4)
            try:
                self._room.resize(size)
            except ValueError:  # somebody holds a view of it
                room = np.zeros(size, self._room.dtype)
                room[: self._length] = self.values
                self._room = room
        self._room[self._length : end] = values
        self._length = end


class SampleFile(Sequence[Sample]):
    """Some samples of a spool in some order, a sample as often as chosen; each is read when asked for.

    Attributes:
        spool: where they lie.
        chosen: (samples,) which of them, by their numbers.
    """

    def __init__(self, spool: Spool, chosen: np.ndarray) -> None:
        self._parts: tuple[Spool, np.ndarray] | None = (spool, chosen)
        self._make: Callable[[], SampleFile] | None = None
        self._count = len(chosen)

    @classmethod
    def later(cls, count: int, make: Callable[[], SampleFile]) -> SampleFile:
        """`count` samples that `make` gives when anything but their number is first asked for."""
        samples = cls(Spool(), np.zeros(0, np.int64))
        samples._parts, samples._make, samples._count = None, make, count
        return samples

    def _whole(self) -> tuple[Spool, np.ndarray]:
        if self._parts is None:
            assert self._make is not None
            made = self._make()
            assert len(made) == self._count
            self._parts = made.spool, made.chosen
        return self._parts

    @property
    def spool(self) -> Spool:
        return self._whole()[0]

    @property
    def chosen(self) -> np.ndarray:
        return self._whole()[1]

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> SampleFile:
        """These samples in a spool of their own."""
        spool = Spool()
        for chunk in chunked(samples):
            spool.add(block(chunk))
        return spool.samples()

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleFile: ...
    def __getitem__(self, index: int | slice) -> Sample | SampleFile:
        if isinstance(index, slice):
            return self.pick(np.arange(len(self))[index])
        return _read(self.spool.read(int(self.chosen[range(len(self))[index]])))  # negative indices, IndexError

    def __iter__(self) -> Iterator[Sample]:
        return (_read(self.spool.read(int(index))) for index in self.chosen)

    def facts(self, column: str) -> np.ndarray:
        """(samples,) one of FACTS."""
        return self.spool.facts[column][self.chosen]

    def pick(self, places: np.ndarray) -> SampleFile:
        """Those at these places (or where a mask says so)."""
        return SampleFile(self.spool, self.chosen[places])

    def blocks(self, size: int = CHUNK) -> Iterator[Block]:
        """All of them for other processes, unread here and without their facts."""
        for start in range(0, len(self), size):
            pickles = [self.spool.read(int(index)) for index in self.chosen[start : start + size]]
            yield Block(pickles, np.zeros(0, FACTS))


def _write(sample: Sample) -> bytes:
    content = (
        sample.record, sample.messages, sample.where, sample.tools, sample.task, sample.rejected, sample.marks,
    )  # fmt: skip
    return pickle.dumps(content, pickle.HIGHEST_PROTOCOL)


def _read(content: bytes) -> Sample:
    return Sample(*pickle.loads(content))
