"""The commands that serve a bundle, as its own pages under serve/ have them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TITLE, BLOCK = re.compile(r"^# (.+)$", re.MULTILINE), re.compile(r"```bash\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Engine:
    """One target: what its page is called, its folder in the bundle, and its blocks of commands in order."""

    title: str
    folder: str
    commands: tuple[str, ...]


def engines_of(bundle: Path | None) -> list[Engine]:
    """Every target of the bundle; none without one."""
    found = []
    for file in sorted((bundle / "serve").glob("*/README.md")) if bundle else ():
        text = file.read_text(encoding="utf-8", errors="replace")
        title = TITLE.search(text)
        blocks = tuple(block.strip() for block in BLOCK.findall(text))
        found.append(Engine(title[1] if title else file.parent.name, f"serve/{file.parent.name}", blocks))
    return found
