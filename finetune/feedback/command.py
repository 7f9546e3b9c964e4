"""`finetune feedback import LOG ... --output FOLDER`: what is asked, what is written, what is said."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from finetune.errors import RecipeError
from finetune.feedback.folder import refuse_taken, write_folder
from finetune.feedback.intake import Imported, import_logs
from finetune.feedback.rating import BY_HAND
from finetune.feedback.reasons import REASONS
from finetune.feedback.rows import LABELLED, PREFERENCE, RECORD, SFT
from finetune.feedback.settings import Settings
from finetune.told import tell


def feedback_command(options: argparse.Namespace) -> list[str]:
    """Writes the folder; the lines to print.

    Raises:
        RecipeError, DataError: an option that can't be, a folder that is there, logs or a recipe that are wrong.
        OSError: the disk is full; nothing is left.
    """
    settings = _settings(options)
    refuse_taken(options.output)
    result = import_logs(options.logs, settings)
    written = write_folder(options.output, result)
    tell(options.json, json.loads((options.output / RECORD).read_text(encoding="utf-8")))
    return _said(result, written, options.output)


def _settings(options: argparse.Namespace) -> Settings:
    problems = []
    near, least = options.near_duplicates, options.least_correction
    if near is not None and not 0 < near <= 1:
        problems.append(f"--near-duplicates: a Jaccard index above 0 and up to 1 is needed, got {near:g}")
    if not 0 <= least <= 1:
        problems.append(f"--least-correction: a share from 0 to 1 is needed, got {least:g}")
    if problems:
        raise RecipeError(problems)
    good, bad = (
        tuple(filter(None, (word.strip() for word in text.split(",")))) for text in (options.good, options.bad)
    )
    return Settings(
        good, bad, options.personal_data, options.secrets, near, least, options.broken, options.recipe,
        tuple(options.known),
    )  # fmt: skip


def _said(result: Imported, written: dict[str, int], folder: Path) -> list[str]:
    lines = [f"{file.name}: {file.lines:,} lines" for file in result.log.files]
    if result.scale.numbers:
        other = "" if result.scale.numbers == BY_HAND else "; --good and --bad say otherwise"
        lines.append(f"ratings: numbers are read as {result.scale.numbers}{other}")
    if result.joined:
        lines.append(f"{result.joined:,} lines belong to others: requests of a batch, judgements by id")
    lines.append(
        f"rows: {result.used + len(result.left_out):,}; used {result.used:,}, left out {len(result.left_out):,}"
    )
    lines += [f"  {reason}: {count:,} ({REASONS[reason]})" for reason, count in result.reasons().items()]
    redacted = len({id(entry) for item in result.made for entry in item.entries if entry.redacted})
    if redacted:
        lines.append(f"redacted: {redacted:,} rows")
    if result.settings.recipe is None:
        lines.append("held-out prompts: not compared; --recipe RECIPE keeps those of a recipe out")
    else:
        lines.append(f"held-out prompts: {result.held_out:,} of {result.settings.recipe} are not in here")
    lines += [f"wrote {folder / name}: {count:,} rows" for name, count in written.items()]
    lines.append(f"wrote {folder / 'left_out.jsonl'}, lineage.jsonl, feedback.json, README.md")
    lines += [f"no {what}: {name} is not written" for name, what in _WHAT.items() if name not in written]
    return lines


_WHAT = {SFT: "answers to train on", PREFERENCE: "pairs of answers", LABELLED: "labelled answers"}
