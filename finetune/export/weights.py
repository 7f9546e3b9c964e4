"""Tensors of safetensors files, read in pieces: nothing is mapped or held that is not asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.errors import RecipeError, first_line
from finetune.model.folder import check_folder

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Types that are computed with and cast; every other (integers, float8 of quantised models) is copied as it is.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CODES = {dtype: code for code, dtype in FLOATS.items()}
BLOCK = 1 << 21  # elements read and written at a time: 4 MB in bfloat16


@dataclass(frozen=True)
class Stored:
    """One tensor in a safetensors file.

    Attributes:
        dtype: safetensors' code, such as BF16.
        start, size: where its bytes are in the file, and how many.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int

    @property
    def count(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    def read_into(self, buffer: torch.Tensor, start: int) -> None:
        """Fills `buffer` (uint8) with the tensor's bytes from `start` on.

        Raises:
            OSError: they can't be read; EOFError: the file is shorter than its header says.
        """
        view = buffer.numpy().data
        done = 0
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.start + start)
            while done < len(view):
                got = stream.readinto(view[done:])
                if not got:
                    raise EOFError(f"{self.file}: {self.name} ends after {start + done} of {self.size} bytes")
                done += got

    def settled(self) -> Stored:
        """Itself, or what stands for it once its values are worked out (see unpack.py)."""
        return self

    def raw(self, start: int, size: int) -> torch.Tensor:
        """Bytes `start` to `start + size` of the tensor, uint8."""
        buffer = torch.empty(size, dtype=torch.uint8)
        self.read_into(buffer, start)
        return buffer

    def elements(self, start: int, count: int) -> torch.Tensor:
        """`count` elements from `start` on, flat, in their own dtype; for the types in FLOATS."""
        each = self.size // max(self.count, 1)
        return self.raw(start * each, count * each).view(FLOATS[self.dtype])

    def load(self) -> torch.Tensor:
        """The whole tensor, widened to at least float32."""
        whole = self.elements(0, self.count)
        return whole.to(torch.promote_types(whole.dtype, torch.float32)).reshape(self.shape)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(start, count) of elements, `BLOCK` at a time."""
        for start in range(0, self.count, BLOCK):
            yield start, min(BLOCK, self.count - start)


@dataclass(frozen=True)
class Grown(Stored):
    """A tensor with rows of zeros behind those of the file: a vocabulary's, for rows that an adapter brings.

    Attributes:
        held: bytes that are in the file.
    """

    held: int = 0

    @classmethod
    def of(cls, tensor: Stored, rows: int) -> Grown:
        """`tensor` (rows, columns) with this many rows."""
        size = tensor.size // tensor.shape[0] * rows
        return cls(tensor.name, tensor.dtype, (rows, *tensor.shape[1:]), tensor.file, tensor.start, size, tensor.size)

    def read_into(self, buffer: torch.Tensor, start: int) -> None:
        """As a stored one; zeros where the file has nothing."""
        there = max(0, min(self.held - start, buffer.numel()))
        if there:
            super().read_into(buffer[:there], start)
        buffer[there:] = 0


def header(file: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, and where the tensors' bytes begin.

    Raises:
        RecipeError: it is not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):  # its own checks: lengths, overlaps, types
            pass
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"{file}: {first_line(error)}") from None
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return json.loads(stream.read(length)), 8 + length


def tensors_of(file: Path) -> dict[str, Stored]:
    """All tensors of one file, in the order of their bytes.

    Raises:
        RecipeError: it is not a whole safetensors file.
    """
    entries, begin = header(file)
    entries.pop("__metadata__", None)
    found = []
    for name, entry in entries.items():
        start, stop = entry["data_offsets"]
        found.append(Stored(name, entry["dtype"], tuple(entry["shape"]), file, begin + start, stop - start))
    return {tensor.name: tensor for tensor in sorted(found, key=lambda tensor: (tensor.start, tensor.name))}


def model_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a model folder, shard by shard.

    Raises:
        RecipeError: no safetensors weights, a shard is missing or broken, or something leads out of the folder.
    """
    check_folder("base", str(folder))
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise RecipeError(f"{folder}: neither {SINGLE} nor {INDEX}; a model folder with safetensors is needed")
        return tensors_of(folder / SINGLE)
    named: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    shards = sorted(set(named.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise RecipeError([f"{folder}: {shard} is named by {INDEX} and not there" for shard in missing])
    tensors: dict[str, Stored] = {}
    for shard in shards:
        tensors |= {name: tensor for name, tensor in tensors_of(folder / shard).items() if named.get(name) == shard}
    absent = sorted(set(named) - set(tensors))
    if absent:
        raise RecipeError([f"{folder / named[name]}: {name} is named by {INDEX} and not there" for name in absent])
    return tensors


def same_values(left: Stored, right: Stored) -> bool:
    """Whether two tensors hold the same numbers (shape included; dtypes may differ)."""
    if left.shape != right.shape:
        return False
    for start, count in left.pieces():
        if not torch.equal(left.elements(start, count).double(), right.elements(start, count).double()):
            return False
    return True
