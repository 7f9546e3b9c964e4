"""What the packs' tests read: shipped rows, rows through their template, published data where it lies beside the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.data.rows import Sample
from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.recipe_data import SourceSection
from tests.conftest import ROOT


def shipped(pack: str, task: str) -> list[dict[str, Any]]:
    """The rows of a task's sample, as they are written."""
    text = (ROOT / f"data_templates/{pack}/{task}.sample.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def rendered(pack: str, task: str, path: Path | None = None, **source: Any) -> list[Sample]:
    """The task's sample, or the rows of another source, through its template."""
    folder = ROOT / "data_templates" / pack
    section = SourceSection(path=str(path or folder / f"{task}.sample.jsonl"), **source)
    return load_template(folder / f"{task}.yaml").render_all(read_source(section))


def published(pack: str, name: str) -> Path:
    """A published file or folder; skips the test where it is not there."""
    path = ROOT.parent / "shared/data" / pack / name
    if not path.exists():
        pytest.skip(f"no real data at {path}")
    return path
