"""A base's folder comes from somebody else: nothing in it may lead to files outside of it."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from finetune.errors import RecipeError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
READ_BELOW = ("additional_chat_templates",)  # the one folder below that transformers reads


def check_folder(key: str, name: str) -> None:
    """Every file that loading may read lies in the folder, and so does every shard that an index names.

    In the layout of the hub's cache (`models--*/snapshots/<commit>/`) files are links into `models--*/blobs/`, which is
    allowed. A hub id is no folder and passes: huggingface_hub refuses such names itself.

    Args:
        key: the recipe's, for messages.
        name: a folder or a hub id.

    Raises:
        RecipeError: a line for each file that leads out, and for an index that can't be read.
    """
    folder = Path(name)
    if not folder.is_dir():
        return
    problems: list[str] = []
    files: set[Path] = set()
    for index in INDEXES:
        if not (folder / index).is_file() or _leads_out(folder, folder / index):
            continue
        try:
            shards = _shards(folder / index)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            problems.append(f"{key}: {folder / index}: not an index of weight files")
            continue
        leaving = {name for name in shards if PurePosixPath(name).is_absolute() or ".." in re.split(r"[/\\]", name)}
        files |= {folder / name for name in shards - leaving}
        problems += [
            f"{key}: {folder / index} names {name!r}, outside the folder; do not trust this model"
            for name in sorted(leaving)
        ]
    for place in (folder, *(folder / name for name in READ_BELOW)):
        files |= {entry for entry in place.iterdir() if not entry.is_dir()} if place.is_dir() else set()
    problems += [
        f"{key}: {file} is a link to {target}, outside the folder; put the file itself there, or name that folder"
        for file in sorted(files)
        if (target := _leads_out(folder, file))
    ]
    if problems:
        raise RecipeError(problems)


def _shards(index: Path) -> set[str]:
    content: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    shards = set(content["weight_map"].values())
    if not all(isinstance(shard, str) for shard in shards):
        raise TypeError
    return shards


def _leads_out(folder: Path, file: Path) -> Path | None:
    """Where a file really is, when that is neither in the folder nor among the blobs of its own hub cache."""
    inside, target = folder.resolve(), file.resolve()
    allowed = [inside]
    if inside.parent.name == "snapshots" and inside.parents[1].name.startswith("models--"):
        allowed.append(inside.parents[1] / "blobs")
    return None if any(target.is_relative_to(place) for place in allowed) else target
