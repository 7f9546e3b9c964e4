"""scripts/flywheel_example.py on the tiny model: two turns, and one more when it is run again."""

from __future__ import annotations

import json
import sys

import pytest

from finetune.iterate import read_wheel
from scripts import flywheel_example
from tests.conftest import write_tiny_recipe

pytestmark = pytest.mark.slow


def test_two_turns_and_a_third(tiny_base, tiny_data, tmp_path, monkeypatch, capsys):
    """Every turn is told with three scores; run again it makes the one turn that is missing, and changes no other."""
    monkeypatch.setattr(flywheel_example, "RECIPE", write_tiny_recipe(tmp_path, tiny_base, tiny_data))

    def example(turns: int) -> list[str]:
        words = f"--turns {turns} --first 10 --asked 7 --epochs 4 --rows 8 --folder".split()
        monkeypatch.setattr(sys, "argv", ["flywheel_example.py", *words, str(tmp_path / "wheel")])
        assert flywheel_example.main() == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("| v")]

    before = example(2)
    after = example(3)
    assert [line.split(" | ")[0] for line in after] == ["| v0001", "| v0002", "| v0003"] and after[:2] == before
    assert all(line.endswith(("| released |", "| not released |")) for line in after)
    turns = read_wheel(tmp_path / "wheel/wheel").turns
    assert all(set(turn["scores"]) == {"base", "previous", "tuned"} for turn in turns)
    log = [json.loads(line) for line in (tmp_path / "wheel/log.1.jsonl").read_text().splitlines()]
    judged = [line for line in log if "feedback" in line]
    assert len(log) == 7 and len(judged) == turns[0]["rows"]["sft.jsonl"]
