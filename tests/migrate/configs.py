"""Configurations with the settings of the peers' public examples, rows for them, and the command run on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.cli import main
from finetune.recipe import Recipe
from finetune.recipefile import load_recipe
from finetune.yamlfile import read_yaml


@dataclass(frozen=True)
class Imported:
    """What `finetune import` came to: exit code, lines told, and the recipe where one was written."""

    code: int
    told: list[str]
    file: Path
    written: list[str]

    @property
    def values(self) -> dict[str, Any]:
        return read_yaml(self.file)[0]

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.file)

    def under(self, title: str) -> list[str]:
        """The notes below a title, each without the file's name."""
        if title not in self.told:
            return []
        rest = self.told[self.told.index(title) + 1 :]
        end = next((index for index, line in enumerate(rest) if not line.startswith("  ")), len(rest))
        return [line.strip().partition(": ")[2] for line in rest[:end]]

    @property
    def lost(self) -> list[str]:
        return self.under("Without an equivalent:")

    @property
    def changed(self) -> list[str]:
        return self.under("Means something else here:")

    @property
    def idle(self) -> list[str]:
        return [line.partition(":")[0] for line in self.under("Not needed here:")]


def importing(
    capsys: pytest.CaptureFixture[str], config: dict[str, Any] | str, *options: str, name: str = "run.yaml"
) -> Imported:
    """The command on a configuration in the current folder."""
    text = config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    Path(name).write_text(text, encoding="utf-8")
    capsys.readouterr()
    code = main(["import", name, *options])
    said = capsys.readouterr()
    return Imported(code, said.err.splitlines(), Path(f"{Path(name).stem}.recipe.yaml"), said.out.splitlines())


def checked(capsys: pytest.CaptureFixture[str], recipe: Path) -> str:
    """What `finetune check` says first of a recipe that it passes."""
    assert main(["check", str(recipe)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()[0]


def write_rows(file: str, rows: list[dict[str, Any]]) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(file).write_text(json.dumps(rows) if file.endswith(".json") else lines, encoding="utf-8")


def alpaca(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"instruction": f"Double {i}.", "input": "", "output": str(2 * i)} for i in range(first, first + count)]


def messages(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"Double {i}."}, {"role": "assistant", "content": str(2 * i)}]}
        for i in range(count)
    ]
