"""`finetune raft`: questions and passages to rows for a data template that shows passages."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from finetune.data.retrieval import Retrieval, build
from finetune.data.rows import Row
from finetune.errors import RecipeError, writing
from finetune.told import tell


def raft_command(options: Namespace) -> str:
    """Writes the rows to `options.output`; what was written, in a line.

    Raises:
        RecipeError, DataError: numbers out of range, files that can't be read or written, as `retrieval.build`;
            bm25s is not installed.
    """
    settings = Retrieval(options.distractors, options.without_gold, options.then, options.folds, options.seed)
    if not 0 <= settings.without_gold <= 1:
        raise RecipeError(f"--without-gold: {settings.without_gold:g} is not a share (0 to 1)")
    try:
        rows = build(_read(options.questions), _read(options.passages), settings)
    except ModuleNotFoundError as error:
        if error.name != "bm25s":
            raise
        raise RecipeError("finetune raft needs bm25s: pip install 'finetune[retrieval]'") from None
    with writing(options.output):
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    without = sum(not row["cites"] for row in rows)
    sizes = sorted([row["fold"] for row in rows].count(fold) for fold in {row["fold"] for row in rows})
    folds = len(sizes)
    tell(options.json, {"file": str(options.output), "rows": len(rows), "without_gold": without, "folds": folds})
    return (
        f"{options.output}: {len(rows)} rows, {without} without a gold passage; {len(sizes)} folds of "
        f"{sizes[0]} to {sizes[-1]} rows"
    )


def _read(path: Path) -> list[Row]:
    from finetune.data.source import read_source
    from finetune.recipe_data import SourceSection

    return read_source(SourceSection(path=str(path)))  # type: ignore[call-arg]
