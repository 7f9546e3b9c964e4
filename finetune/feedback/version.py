"""Versions of feedback data: `v0001`, `v0002`, ... in one folder, each an import with its parent, hashes and users."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.checkpoint.disk import replace_file
from finetune.data.filehash import file_sha256
from finetune.data.strictjson import MalformedError, strict_json
from finetune.errors import DataError, RecipeError, writing
from finetune.feedback.folder import whole_folder
from finetune.feedback.rows import RECORD

VERSION = "version.json"
_NAME = re.compile(r"v[0-9]{4,}")


@dataclass(frozen=True)
class Version:
    """One version as it lies on disk.

    Attributes:
        parent: the version before it; None for the first.
        files: sha256 of each file but version.json.
        used_by: recipes that were trained on it: `recipe` (path as given) and `sha256`.
    """

    folder: Path
    parent: str | None
    files: dict[str, str]
    used_by: tuple[dict[str, str], ...] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    def rows(self) -> dict[str, int]:
        """Rows of each file of rows, as feedback.json says."""
        record = _json(self.folder / RECORD)
        return {name: item["rows"] for name, item in record["files"].items() if "rows" in item}


def version_names(root: Path) -> list[str]:
    """The versions in a folder, oldest first; none where there is no folder."""
    there = [entry.name for entry in root.iterdir() if _NAME.fullmatch(entry.name)] if root.is_dir() else []
    return sorted(there, key=lambda name: int(name[1:]))


def add_version(root: Path, imported: Path) -> Version:
    """A copy of an import's folder as the next version; its parent is the newest one. Whole or not at all.

    Raises:
        DataError: no import, or its files are not those that its feedback.json lists.
        RecipeError: a place that can't be written.
    """
    listed = _json(imported / RECORD).get("files")
    if not isinstance(listed, dict) or not all(isinstance(item, dict) for item in listed.values()):
        raise DataError(f"{imported / RECORD}: files: is not that of an import")
    wanted = {name: str(item.get("sha256")) for name, item in listed.items()}
    _check(imported, wanted)
    names = version_names(root)
    folder = root / f"v{int(names[-1][1:]) + 1 if names else 1:04d}"
    with whole_folder(folder) as place:
        for name in (*wanted, RECORD):
            shutil.copyfile(imported / name, place / name)
        files = wanted | {RECORD: file_sha256(place / RECORD)}
        parent = names[-1] if names else None
        (place / VERSION).write_text(_text(folder.name, parent, files, ()), encoding="utf-8")
    return Version(folder, parent, files)


def read_version(folder: Path) -> Version:
    """A version, every file of it held to its hash.

    Raises:
        DataError: no version, a file that is missing or has changed.
    """
    values = _json(folder / VERSION)
    files = values.get("files")
    if not isinstance(files, dict) or values.get("version") != folder.name:
        raise DataError(f"{folder / VERSION}: is not that of the version {folder.name}")
    _check(folder, files)
    return Version(folder, values.get("parent"), files, tuple(values.get("used_by") or ()))


def ancestry(version: Version) -> list[Version]:
    """The version and those before it, newest first.

    Raises:
        DataError: one of them is missing or has changed.
    """
    found = [version]
    while found[-1].parent is not None:
        if found[-1].parent in {item.name for item in found}:
            raise DataError(f"{found[-1].folder / VERSION}: parent: {found[-1].parent} comes of itself")
        found.append(read_version(version.folder.parent / found[-1].parent))
    return found


def record_use(version: Version, recipe: Path) -> Version:
    """Writes into version.json that this recipe is trained on it; the same recipe file is written once.

    Raises:
        RecipeError: version.json can't be written, there is no such recipe.
    """
    if not recipe.is_file():
        raise RecipeError(f"{recipe}: no such file")
    use = {"recipe": str(recipe), "sha256": file_sha256(recipe)}
    if use in version.used_by:
        return version
    used_by = (*version.used_by, use)
    with writing(version.folder / VERSION):
        replace_file(version.folder / VERSION, _text(version.name, version.parent, version.files, used_by))
    return Version(version.folder, version.parent, version.files, used_by)


def _text(name: str, parent: str | None, files: dict[str, str], used_by: tuple[dict[str, str], ...]) -> str:
    values = {"version": name, "parent": parent, "files": files, "used_by": list(used_by)}
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def _check(folder: Path, files: dict[str, str]) -> None:
    problems = []
    for name, wanted in files.items():
        file = folder / name
        if Path(name).name != name:
            problems.append(f"{folder}: {name!r} is no name of a file in it")
        elif not file.is_file():
            problems.append(f"{file}: is missing")
        elif file_sha256(file) != wanted:
            problems.append(f"{file}: has changed: its sha256 is not the one written down")
    if problems:
        raise DataError(problems)


def _json(file: Path) -> dict[str, Any]:
    try:
        values = strict_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    except MalformedError as error:
        raise DataError(f"{file}:{error.line}: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{file}: an object is needed, got {type(values).__name__}")
    return values
