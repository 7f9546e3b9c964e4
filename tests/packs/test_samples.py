"""Every shipped sample is what its module in scripts/make/ makes, byte for byte."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scripts.make.__main__ import load, sample_of, tasks, text_of
from tests.conftest import ROOT

MADE = [task for task in tasks() if hasattr(load(task), "make")]


def test_the_tasks_were_found():
    assert len(MADE) >= 8 and {"finance/cashflow", "mining/law_questions"} <= set(MADE)
    assert set(tasks()) - set(MADE) >= {"mining/law_articles"}


@pytest.mark.parametrize("task", MADE)
def test_the_sample_is_what_its_module_makes(task):
    module = load(task)
    assert text_of(module.make(module.ROWS, module.SEED)) == sample_of(task).read_text(encoding="utf-8")
    few = module.make(4, module.SEED + 1)
    assert len(few) == 4 and few != module.make(4, module.SEED)


def test_the_command_writes_what_it_is_asked_for(tmp_path):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "scripts.make", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )

    made = run("mining/gas_report", "--rows", "3", "--seed", "5", "--output", str(tmp_path / "rows.jsonl"))
    assert (made.returncode, made.stdout) == (0, f"{tmp_path / 'rows.jsonl'}: 3 rows\n")
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == text_of(load("mining/gas_report").make(3, 5))
    for words, said in (
        (("mining/gas_report", "--from", str(tmp_path)), "mining/gas_report reads no real data"),
        (("mining/law_articles", "--from", str(tmp_path)), "--from needs --output"),
        (("mining/law_articles",), "makes no rows; give it real data with --from"),
        (("mining/gas",), "invalid choice: 'mining/gas'"),
        (("mining/gas_report", "--rows", "0"), "--rows: 0: at least one row is needed"),
    ):
        refused = run(*words)
        assert refused.returncode == 2 and said in refused.stderr, words
