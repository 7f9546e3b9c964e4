"""A file that is carried over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from finetune.data.filehash import known_sha256


@dataclass(frozen=True)
class Item:
    """One file.

    Attributes:
        path: where it lies here.
        to: where it is to lie in the folder that is carried; None: it comes inside a wheel.
        bytes, sha256: of its content.
    """

    path: Path
    to: str | None
    bytes: int
    sha256: str


def item(path: Path, to: str | None) -> Item:
    """The file's size and hash read now; `to` as in Item."""
    return Item(path, to, path.stat().st_size, known_sha256(path.resolve()))


def items_below(folder: Path, to: str) -> list[Item]:
    """All files of a folder, links followed, hidden ones (.git, .cache) left out."""
    inside = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file())
    return [
        item(folder / name, f"{to}/{name.as_posix()}")
        for name in inside
        if not any(part.startswith(".") for part in name.parts)
    ]


def total(items: Iterable[Item]) -> int:
    """Bytes of those that are carried, each place once."""
    return sum({one.to: one.bytes for one in items if one.to is not None}.values())
