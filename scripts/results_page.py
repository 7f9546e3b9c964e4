"""docs/results.json to the pages docs/results.md and docs/results.zh-CN.md."""

from __future__ import annotations

from pathlib import Path

STORE = Path(__file__).resolve().parent.parent / "docs/results.json"


def write_pages() -> None:
    """Both pages, from what was measured."""
