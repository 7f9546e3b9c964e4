"""Checkpoints of a few small files for the tests of the store. Imports neither torch nor pytest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

FILES = ("adapter_model.safetensors", "optimizer.safetensors", "rng-0.safetensors", "tokenizer/vocabulary.json")


def filled(value: int, size: int = 300) -> Callable[[Path], None]:
    """A `fill` that writes FILES, each in two pieces, every byte `value`."""

    def fill(folder: Path) -> None:
        for name in FILES:
            file = folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(bytes([value]) * (size // 2))
            with file.open("ab") as stream:
                stream.write(bytes([value]) * (size - size // 2))

    return fill


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its name."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def holds(folder: Path, value: int) -> bool:
    """Whether the folder's FILES are those of `filled(value)`, all of them."""
    found = contents(folder)
    return all(set(found[name]) == {value} for name in FILES)
