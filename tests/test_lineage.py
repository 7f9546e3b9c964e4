"""docs/lineage.md: its commands are those of the command line, its check runs, both languages show the same code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

from finetune.commands import command_parser
from finetune.export.combine import METHODS
from finetune.export.sbom import write_sbom
from tests.conftest import ROOT

BOTH = ("docs/lineage.md", "docs/lineage.zh-CN.md")


def blocks(name: str) -> list[str]:
    return re.findall(r"```bash\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same_commands_and_methods():
    english, chinese = (blocks(name) for name in BOTH)
    assert english == chinese
    assert len(english) == 5
    for name in BOTH:
        table = (ROOT / name).read_text(encoding="utf-8").partition("`--method`")[2]
        shown = [
            word for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for word in re.findall("`(.*?)`", row)
        ]
        assert sorted(shown) == sorted(METHODS)


def test_every_finetune_command_is_understood():
    lines = [line for block in blocks(BOTH[0]) for line in block.splitlines() if line.startswith("finetune ")]
    assert {shlex.split(line)[1] for line in lines} == {"reproduce", "export", "merge"}
    for line in lines:
        command_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.slow
def test_the_check_of_the_component_list_runs(finished_run, tmp_path):
    pytest.importorskip("cyclonedx")
    folder = tmp_path / "runs/cashflow/bundle"
    folder.mkdir(parents=True)
    write_sbom(folder, json.loads((finished_run[1].bundle / "MANIFEST.json").read_text()))
    code = re.search(r'python -c "\n(.*?)"\n', "".join(blocks(BOTH[0])), re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "valid\n"
