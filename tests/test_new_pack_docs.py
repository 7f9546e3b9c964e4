"""docs/new_pack.md is run from top to bottom in an empty folder; only training is on the tiny base."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from finetune.cli import main
from tests.conftest import ROOT
from tests.test_shipped import small

BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Kind, text and, of a file, the name of each block: the last that the line before it has in backticks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [(m["kind"], m["text"], m["before"]) for m in BLOCK.finditer(text)]
    assert len(found) == text.count("```") // 2
    names = [re.findall(r"`([^`]+\.(?:csv|yaml))`", before) for _, _, before in found]
    return [(kind, text, its[-1] if its else "") for (kind, text, _), its in zip(found, names, strict=True)]


def write(name: str, text: str) -> None:
    """A file, or, of a section, the end of one."""
    file = Path(name)
    if text.startswith("card:"):
        text = file.read_text(encoding="utf-8").partition("card:")[0] + text
    file.write_text(text, encoding="utf-8")


def run(line: str, base: Path, capfd) -> str:
    """What a command prints; its exit code is the one that the comment says, else 0."""
    command, _, comment = line.partition("  # exit code ")
    words = shlex.split(command)
    if words[0] == "finetune":
        training = [*small(base, Path("runs/excursion"))] if words[1] == "train" else []
        assert main([*words[1:], *training]) == int(comment or 0)
    else:
        assert words[0] in ("head", "grep")
        subprocess.run(words, check=True)
    out, err = capfd.readouterr()
    return (err if comment else out).replace(f"{Path.cwd()}/", "")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/new_pack.md", pytest.param("docs/new_pack.zh-CN.md", marks=pytest.mark.long)])
def test_the_page_runs(page, tiny_base, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    said, told = "", 0
    for kind, text, name in blocks(page):
        if kind in ("csv", "yaml"):
            write(name, text)
        elif kind == "bash":
            said = "".join(run(line, tiny_base, capfd) for line in text.splitlines())
        else:
            assert kind == "text" and said.rstrip() == text.rstrip()
            told += 1
    assert told == 3
    assert (tmp_path / "runs/excursion/bundle/MANIFEST.json").is_file()
    assert said.endswith("right; 33 samples to train on, 9 held out\n")


def test_both_languages_run_the_same():
    english, chinese = (blocks(page) for page in ("docs/new_pack.md", "docs/new_pack.zh-CN.md"))
    assert [kind for kind, _, _ in english] == [kind for kind, _, _ in chinese]
    one, other = ([text for kind, text, _ in page if kind == "bash"] for page in (english, chinese))
    same = [text.replace("consignments.csv", "运单.csv").replace("may.csv", "五月.csv") for text in one]
    assert same == other
