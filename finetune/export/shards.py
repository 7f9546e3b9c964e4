"""Safetensors shards written in pieces, in any order, by several threads; and a note of which are finished."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.checkpoint.disk import replace_file
from finetune.errors import RecipeError
from finetune.export.jobs import Job, Segment
from finetune.export.weights import INDEX, SINGLE

STATE = "merge.state.json"
PART = ".part"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

# safetensors' own order of types, in which no type is narrower than the one before it.
ORDER = ("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16", "BF16", "I32",
         "U32", "F32", "C64", "F64", "I64", "U64")  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """One file to write.

    Attributes:
        jobs, starts: its tensors, and where each one's bytes begin in the file.
        header: everything before the first tensor.
    """

    file: str
    jobs: tuple[Job, ...]
    starts: tuple[int, ...]
    header: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(job.size for job in self.jobs)


def parse_size(text: str) -> int:
    """Bytes of `5GB` or `300MiB`.

    Raises:
        RecipeError: not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise RecipeError(f"max_shard_size: {text!r}: a size such as 5GB is needed")
    unit = match[2] or ""
    return int(float(match[1]) * UNITS[unit[:1].upper() + unit[1:].lower()])


def cut(jobs: Sequence[Job], limit: int) -> list[Shard]:
    """Shards of at most `limit` bytes of tensors (a larger tensor has one of its own), filled in the order given."""
    groups: list[list[Job]] = [[]]
    filled = 0
    for job in jobs:
        if groups[-1] and filled + job.size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(job)
        filled += job.size
    names = (
        [SINGLE]
        if len(groups) == 1
        else [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    )
    return [_shard(name, group) for name, group in zip(names, groups, strict=True)]


def _shard(file: str, jobs: list[Job]) -> Shard:
    """Wider types first, then by name, as safetensors itself orders them: every tensor is aligned to its type."""
    ordered = sorted(jobs, key=lambda job: (-ORDER.index(job.dtype) if job.dtype in ORDER else 0, job.name))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets, offset = [], 0
    for job in ordered:
        offsets.append(offset)
        entries[job.name] = {
            "dtype": job.dtype,
            "shape": list(job.source.shape),
            "data_offsets": [offset, offset + job.size],
        }
        offset += job.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Shard(file, tuple(ordered), tuple(len(header) + start for start in offsets), header)


def _width(job: Job) -> int:
    return job.size // max(job.source.count, 1)


def place(shard: Shard, number: int, segment: Segment) -> tuple[int, int]:
    """(offset in the file, bytes) of a segment of the shard's tensor `number`."""
    job = shard.jobs[number]
    _, rows, columns = job.dimensions
    each = _width(job)
    first = (segment.lead * rows + segment.first) * columns
    return shard.starts[number] + first * each, (segment.last - segment.first) * columns * each


def write_at(file: Path, offset: int, block: torch.Tensor) -> int:
    """Writes a block into a file that has its size already; zeros are left as the hole they are.

    Returns:
        CRC-32 of the block's bytes.
    """
    flat = block.contiguous().view(-1).view(torch.uint8)
    data = flat.numpy().data
    if not flat[:4096].any() and not flat.any():
        return zlib.crc32(data)
    with file.open("r+b", buffering=0) as stream:
        stream.seek(offset)
        done = 0
        while done < len(data):
            done += stream.write(data[done:])
        _start_writing(stream.fileno(), offset, len(data))
    return zlib.crc32(data)


def _start_writing(descriptor: int, offset: int, size: int) -> None:
    """The disk begins at once, instead of when a fifth of the memory waits for it and writers are held up."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)


def reserve(file: Path, shard: Shard) -> None:
    """The file with its header, as long as it will be."""
    with file.open("wb") as stream:
        stream.write(shard.header)
        stream.truncate(shard.size)


def checksum(shard: Shard, folder: Path) -> int | None:
    """The finished shard's CRCs again, read from its file; None when the file is missing or not this shard's."""
    file = folder / shard.file
    if not file.is_file() or file.stat().st_size != shard.size:
        return None
    crcs = []
    with file.open("rb", buffering=0) as stream:
        if stream.read(len(shard.header)) != shard.header:
            return None
        for number, job in enumerate(shard.jobs):
            for segment in job.segments():
                offset, size = place(shard, number, segment)
                stream.seek(offset)
                crcs.append(zlib.crc32(stream.read(size)))
    return combined(crcs)


def combined(crcs: Sequence[int]) -> int:
    """One CRC for a shard's blocks in their order."""
    return zlib.crc32(b"".join(crc.to_bytes(4, "little") for crc in crcs))


class State:
    """The note in the output folder of which shards are finished, for a merge that was interrupted.

    A shard is noted after it has got its name; a note whose shard is not (or no longer) what it was is not believed.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._file = folder / STATE
        self._fingerprint = fingerprint
        self.finished: dict[str, int] = {}
        try:
            noted = json.loads(self._file.read_text(encoding="utf-8"))
            if noted["fingerprint"] == fingerprint:
                self.finished = {str(name): int(crc) for name, crc in noted["shards"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass

    def note(self, shard: Shard, crc: int) -> None:
        """The shard is finished."""
        self.finished[shard.file] = crc
        replace_file(self._file, json.dumps({"fingerprint": self._fingerprint, "shards": self.finished}))

    def remove(self) -> None:
        """The merge is finished."""
        self._file.unlink(missing_ok=True)


def fingerprint(base: Sequence[Path], adapter: Sequence[Path], settings: Sequence[object]) -> str:
    """Of the base's files name, length, time of change and first 64 KiB; of the adapter's every byte; the settings."""
    digest = hashlib.sha256(repr(list(settings)).encode())
    for file in base:
        facts = file.stat()
        digest.update(f"{file.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 16))
    for file in adapter:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """model.safetensors.index.json as the hub has it; none for one file."""
    if len(shards) == 1:
        return
    total = sum(job.size for shard in shards for job in shard.jobs)
    names = {job.name: shard.file for shard in shards for job in shard.jobs}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
    replace_file(folder / INDEX, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def clear(folder: Path, keep: Sequence[str]) -> None:
    """Removes what an interrupted merge left that this one doesn't go on from."""
    for file in folder.iterdir():
        ours = file.name.endswith((".safetensors", ".safetensors" + PART)) or file.name == INDEX
        leftover = re.fullmatch(rf"\.({re.escape(STATE)}|{re.escape(INDEX)})\.[0-9a-f]+\.tmp", file.name)
        if ((ours and file.name.startswith("model")) or leftover) and file.name not in keep:
            file.unlink()
