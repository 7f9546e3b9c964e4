"""Paths in the audit as a recipe would write them: it is read on other machines, by people whom our folders don't concern."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from finetune.data.audit_types import Audit
from finetune.data.tokentext import TokenText


class Relative:
    """Paths below known folders, relative to the recipe's folder.

    A folder that shares no more with the recipe's than the root of the file system is named by its own last parts.
    """

    def __init__(self, base: Path, named: Iterable[Path]) -> None:
        """
        Args:
            base: the recipe's folder.
            named: the files and folders that the recipe names, in any place.
        """
        base = base.resolve()
        self._shown = {str(base): "."}
        for path in sorted({path.resolve().parent for path in named}):
            if path.parts[:2] == base.parts[:2]:
                self._shown[str(path)] = Path(os.path.relpath(path, base)).as_posix()
            else:
                parts = range(1, len(path.parts))
                short = ("…/" + "/".join(path.parts[-count:]) for count in parts)
                self._shown[str(path)] = next((name for name in short if name not in self._shown.values()), "…")
        known = "|".join(re.escape(folder) for folder in sorted(self._shown, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![\w./\\-])({known})[/\\]")

    def text(self, text: str) -> str:
        """The text with every such path in it made relative."""
        return self._pattern.sub(lambda found: self._lead(found[1]), text)

    def audit(self, audit: Audit) -> Audit:
        """The same audit; the tokens of the samples it shows stay as they are."""
        return self._walk(audit)

    def _lead(self, folder: str) -> str:
        shown = self._shown[folder]
        return "" if shown == "." else f"{shown}/"

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, tuple):
            return tuple(map(self._walk, value))
        if isinstance(value, dict):
            return {self._walk(key): self._walk(item) for key, item in value.items()}
        if is_dataclass(value) and not isinstance(value, TokenText | type):
            return replace(value, **{field.name: self._walk(getattr(value, field.name)) for field in fields(value)})
        return value
