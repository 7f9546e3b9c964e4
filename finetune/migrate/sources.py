"""Where a peer's rows lie, as sources of a recipe: files told from the recipe's folder, or sets of the hub; rows held out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.data.source import ENDINGS, stream_source
from finetune.errors import DataError
from finetune.migrate.draft import Draft
from finetune.recipe_data import SourceSection

COUNTED = 256 * 2**20  # bytes of a file whose rows are counted
LOOKED_AT = 50  # rows whose columns are looked at
HELD_OUT = 100  # rows, where the peer's share can't be counted


@dataclass(frozen=True)
class Rows:
    """One set of rows.

    Attributes:
        source: a source as a recipe has it. format: that of ready rows; empty with a template.
        template: the text of a data template for them.
        file: where it lies on this machine, None for a hub set or a file that is not there.
    """

    source: dict[str, Any]
    format: str = "auto"
    template: str = ""
    file: Path | None = None
    count: int | None = field(default=None, compare=False)


def found(name: str, folders: Sequence[Path]) -> Path | None:
    """A file or folder of this name in the first folder that has it."""
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def from_recipe(path: Path, output: Path) -> str:
    """A path as the recipe says it: from the recipe's own folder."""
    return Path(os.path.relpath(path.resolve(), output.parent.resolve())).as_posix()


def is_file_name(name: str) -> bool:
    """Whether it names a file or folder rather than a set of the hub."""
    return name.startswith((".", "/", "~")) or Path(name).suffix.lower() in ENDINGS or name.count("/") > 1


def locate(draft: Draft, name: str, key: str, folders: Sequence[Path], where: dict[str, str]) -> Rows:
    """A set by name: a file or folder that is there, one that is not (told), or a set of the hub.

    Args:
        folders: that a relative name may start from. where: `subset`, `split`, `revision` of a hub set.
    """
    path = found(name, folders)
    if path is not None:
        told = from_recipe(path, draft.output)
        split = {"split": where["split"]} if path.is_dir() and where.get("split", "train") != "train" else {}
        return Rows({"path": told} | split, file=path, count=count_rows(path))
    if is_file_name(name):
        draft.changed(key, f"{name}: no such file here; put it in place, or mend `path` in the recipe")
        return Rows({"path": from_recipe(folders[0] / name, draft.output)})
    revision = where.get("revision")
    source = {"hub": f"{name}@{revision}" if revision else name}
    return Rows(source | {word: where[word] for word in ("subset", "split") if where.get(word)})


def count_rows(path: Path) -> int | None:
    """How many rows a file or folder has; None where it is large or can't be read."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    if sum(file.stat().st_size for file in files) > COUNTED:
        return None
    try:
        return sum(1 for _ in stream_source(_section(path)))
    except DataError:
        return None


def first_rows(path: Path | None) -> list[Any]:
    """The first rows of a file on this machine; none where it is not there or can't be read."""
    if path is None:
        return []
    try:
        return list(islice(stream_source(_section(path)), LOOKED_AT))
    except DataError:
        return []


def _section(path: Path) -> SourceSection:
    return SourceSection(path=str(path.resolve()))  # type: ignore[call-arg]


def put_data(draft: Draft, train: Sequence[Rows], held_out: Sequence[Rows]) -> None:
    """`data.train` and `data.eval` with the format or template of all; a template goes into a file beside the recipe."""
    every = [*train, *held_out]
    templates = list(dict.fromkeys(rows.template for rows in every if rows.template))
    if len(templates) > 1:
        draft.lost(
            "datasets", "a recipe has one data template, and these sets need several: only the first one's is written",
            "a mixture, or a chain of stages, each with its own `data`",
        )  # fmt: skip
    formats = list(dict.fromkeys(rows.format for rows in every if not rows.template))
    if templates:
        file = f"{draft.output.name.removesuffix('.yaml').removesuffix('.yml')}.template.yaml"
        draft.files[file] = templates[0]
        draft.write("data.template", file, "written beside this recipe")
    elif formats:
        draft.write("data.format", formats[0])
    for target, sets in (("data.train", train), ("data.eval", held_out)):
        if sets:
            draft.write(target, [_source(rows, bool(templates), formats) for rows in sets])


def _source(rows: Rows, with_template: bool, formats: Sequence[str]) -> dict[str, Any]:
    own = not rows.template and (with_template or rows.format != formats[0])
    return rows.source | ({"format": rows.format} if own else {})


def hold_out(draft: Draft, train: Sequence[Rows], size: float | None, key: str) -> int | None:
    """`data.split`: as many rows as the peer holds out, or some where it holds out none; how many are left to train on.

    Args:
        size: rows, or below 1 a share of them; None or 0 for none.
    """
    counts = [rows.count for rows in train]
    whole = None if None in counts else sum(count for count in counts if count is not None)
    if size and size >= 1:
        draft.put("data.split.eval_rows", rows := int(size), key)
    elif size and whole:
        draft.write("data.split.eval_rows", rows := max(1, math.ceil(size * whole)), f"{key}: {size:g} of {whole} rows")
    elif size:
        draft.write("data.split.eval_rows", rows := HELD_OUT)
        draft.lost(key, "a share of rows that can't be counted now", f"data.split.eval_rows: {HELD_OUT}")
    else:
        rows = HELD_OUT if whole is None else min(HELD_OUT, max(1, whole // 10))
        draft.write("data.split.eval_rows", rows, "none there")
        draft.changed(
            key, f"nothing is held out there; {rows} rows are here, because base and tuned are compared on such: "
            "they are not trained on",
        )  # fmt: skip
    return None if whole is None else max(1, whole - rows)


def weighted(rows: Sequence[Rows], shares: Sequence[float]) -> list[Rows]:
    """The sets with their shares of the drawn rows."""
    return [replace(one, source=one.source | {"weight": share}) for one, share in zip(rows, shares, strict=True)]
