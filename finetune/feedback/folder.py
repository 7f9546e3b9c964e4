"""The folder of an import, written whole or not at all: rows, what was left out, where each row comes from, counts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.data.personal import PERSONAL, SECRETS, redact_text
from finetune.errors import RecipeError, writing
from finetune.feedback.datasheet import datasheet
from finetune.feedback.entry import Entry
from finetune.feedback.intake import Imported
from finetune.feedback.log import LeftOut
from finetune.feedback.rows import FILES, RECORD


def refuse_taken(folder: Path) -> None:
    """Raises RecipeError where something lies in the folder's place."""
    if folder.exists() or folder.is_symlink():
        raise RecipeError(f"{folder}: is there already; give a new folder")


def write_folder(folder: Path, result: Imported) -> dict[str, int]:
    """Writes all files; rows of each file of rows.

    Raises:
        RecipeError: the place is taken or can't be written.
        OSError: the disk is full; nothing is left.
    """
    files = _files(result)
    with whole_folder(folder) as place:
        for name, text in files.items():
            (place / name).write_text(text, encoding="utf-8", newline="\n")
    return {name: files[name].count("\n") for name in FILES if name in files}


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside it to write into, which takes its name at the end; after an error nothing is left.

    Raises:
        RecipeError: the place is taken or can't be written.
    """
    refuse_taken(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        try:
            yield partial
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _files(result: Imported) -> dict[str, str]:
    """The text of every file by its name; a kind of row that there is none of has no file."""
    rows = {name: [item for item in result.made if item.file == name] for name in FILES}
    files = {name: _lines([item.values for item in items]) for name, items in rows.items() if items}
    files["left_out.jsonl"] = _lines(
        [
            {"where": item.where, "choice": item.choice, "reason": item.reason, "detail": _public(item.detail)}
            for item in sorted(result.left_out, key=lambda item: place_of(item, result))
        ]
    )
    hashes = {file.name: file.sha256 for file in result.log.files}
    raters = {name: f"rater {number}" for number, name in enumerate(result.raters, start=1)}
    files["lineage.jsonl"] = _lines(
        [
            {
                "file": name, "row": number, "done": item.done,
                "from": [_origin(entry, hashes, raters) for entry in item.entries],
            }
            for name, items in rows.items()
            for number, item in enumerate(items, start=1)
        ]
    )  # fmt: skip
    record = record_of(result, files)
    files["README.md"] = datasheet(record)
    record["files"]["README.md"] = {"sha256": _sha256(files["README.md"])}
    files[RECORD] = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    return files


def _origin(entry: Entry, hashes: dict[str, str], raters: dict[str, str]) -> dict[str, Any]:
    by = entry.about["by"]
    return {
        "log": entry.file, "sha256": hashes[entry.file], "line": entry.line, "choice": entry.choice,
        **entry.about, "id": _public(entry.about["id"]), "by": None if by is None else raters[by],
        "redacted": list(entry.redacted),
    }  # fmt: skip


def place_of(item: LeftOut, result: Imported) -> tuple[int, int, int]:
    """The number of its file, its line and choice: the order of the logs."""
    file, _, line = item.where.rpartition(":")
    return [log.name for log in result.log.files].index(file), int(line), item.choice


def _public(text: str | None) -> str | None:
    """A text about a row (an id, an error with a piece of the line) without private data, whatever the settings say."""
    return redact_text(text, PERSONAL | SECRETS) if text else text


def record_of(result: Imported, files: dict[str, str]) -> dict[str, Any]:
    """What feedback.json says: the same logs and settings give the same record."""
    settings = result.settings
    return {
        "finetune": __version__,
        "logs": [{"name": file.name, "sha256": file.sha256, "lines": file.lines} for file in result.log.files],
        "settings": {
            "good": list(settings.good), "bad": list(settings.bad), "personal_data": settings.personal_data,
            "secrets": settings.secrets, "near_duplicates": settings.near_duplicates,
            "least_correction": settings.least_correction, "broken": settings.broken,
            "recipe": None if settings.recipe is None else str(settings.recipe),
            "known": [str(folder) for folder in settings.known],
        },
        "numbers_read_as": result.scale.numbers,
        "counts": {
            "lines": result.lines, "joined": result.joined, "rows": result.used + len(result.left_out),
            "used": result.used, "left_out": len(result.left_out), "raters": len(result.raters),
        },
        "left_out": result.reasons(),
        "models": sorted({model for item in result.made for entry in item.entries if (model := entry.about["model"])}),
        "files": {
            name: {"rows": text.count("\n"), "sha256": _sha256(text)} for name, text in files.items()
        },
    }  # fmt: skip


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _lines(items: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
