"""The articles of a folder of laws in Markdown, as data_templates/pharma/drug_law_articles.jsonl holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scripts.make import law


def read(folder: Path) -> Iterator[dict]:
    return law.read_laws(folder)
