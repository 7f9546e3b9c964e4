"""Questions on mining law with the articles to cite; see scripts/make/law.py. `--from` takes a folder of laws in Markdown."""

from __future__ import annotations

from pathlib import Path

from scripts.make import law

ROWS, SEED = 960, 29
ARTICLES = Path(__file__).parents[3] / "data_templates/mining/law_articles.jsonl"


def make(rows: int, seed: int) -> list[dict]:
    return law.make_rows(law.shipped_articles(ARTICLES), rows, seed)


def read(folder: Path) -> list[dict]:
    """As many questions as the folder's laws give, at most ROWS."""
    return law.make_rows(list(law.read_laws(folder)), ROWS, SEED)
