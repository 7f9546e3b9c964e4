"""docs/migrate.md is run: its configuration imported, the recipe that it shows compared letter by letter, and checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from finetune.cli import main
from tests.conftest import ROOT
from tests.migrate.configs import write_rows


@pytest.mark.parametrize("page", ["docs/migrate.md", "docs/migrate.zh-CN.md"])
def test_the_page_shows_what_the_command_writes(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config, commands, recipe = (
        text for _, text in re.findall(r"```(\w+)\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    )
    Path("alarm.yaml").write_text(config, encoding="utf-8")
    rows = [{"reading": f"CH4 {i / 100:.2f} %", "grade": "evacuate" if i >= 150 else "normal"} for i in range(200)]
    write_rows("data/alarms.jsonl", rows)
    info = {"alarms": {"file_name": "alarms.jsonl", "columns": {"prompt": "reading", "response": "grade"}}}
    Path("data/dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    for command in commands.splitlines():
        assert main(command.split()[1:]) == 0
    assert Path("alarm.recipe.yaml").read_text(encoding="utf-8") == recipe
    assert "right; 180 samples to train on, 20 held out" in capsys.readouterr().out
