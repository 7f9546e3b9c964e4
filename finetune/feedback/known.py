"""What earlier imports have already: logs overlap, and a row that is in two versions would be trained twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from finetune.data.source import stream_source
from finetune.errors import RecipeError
from finetune.feedback.entry import Entry
from finetune.feedback.log import LeftOut
from finetune.feedback.rows import LABELLED, RECORD, labelled_values
from finetune.recipe_data import SourceSection


def known_rows(folders: Sequence[Path]) -> dict[bytes, str]:
    """Digests of the labelled answers of imports (or of folders of them), and where each stands.

    Every answer that an import uses is in its labelled.jsonl.

    Raises:
        RecipeError: a folder that is no import and holds none.
        DataError: a file that can't be read.
    """
    problems: list[str] = []
    found: dict[bytes, str] = {}
    for folder in folders:
        imports = (
            [folder] if (folder / RECORD).is_file() else sorted(file.parent for file in folder.glob(f"*/{RECORD}"))
        )
        if not imports:
            problems.append(f"--known: {folder}: is no import and holds none (no {RECORD})")
        for file in (place / LABELLED for place in imports):
            if not file.is_file():
                problems.append(f"--known: {file}: is missing")
                continue
            for row in stream_source(SourceSection(path=str(file), kind="jsonl")):  # type: ignore[call-arg]
                found.setdefault(_digest(row.values), row.where)
    if problems:
        raise RecipeError(problems)
    return found


def without_known(entries: Iterable[Entry], known: dict[bytes, str], left_out: list[LeftOut]) -> list[Entry]:
    """Entries but those whose judgement of this answer, or whose correction, an earlier import has."""
    kept = []
    for entry in entries:
        answer = entry.correction or entry.answer
        label = bool(entry.correction) or entry.verdict == "good"
        twin = known.get(_digest(labelled_values(entry, answer, label))) if answer else None
        if twin is None:
            kept.append(entry)
        else:
            left_out.append(entry.left_out("known", f"as {twin}"))
    return kept


def _digest(values: dict[str, Any]) -> bytes:
    text = json.dumps(values, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
