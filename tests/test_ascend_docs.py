"""docs/ascend.md: the files, versions and limits that it names are those of the project; both languages say the same."""

from __future__ import annotations

import re
import subprocess

import pytest

from finetune.commands import command_parser
from tests.conftest import ROOT

PAGES = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("ascend.md", "ascend.zh-CN.md")}
PINS = dict(re.findall(r"^([^#=]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def blocks(page: str) -> list[str]:
    """The shell blocks without their comments, which are in the page's language."""
    return [
        re.sub(r"\s*#.*$", "", block, flags=re.MULTILINE) for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    ]


def test_both_languages_have_the_same_commands_and_rows():
    english, chinese = PAGES.values()
    assert blocks(english) == blocks(chinese) and len(blocks(english)) == 9
    for start in ("| `HCCL", "| `npu_", "| `model.", "| `train.", "| torch 2.", "| `PYTORCH"):
        found = [
            [line.split("|")[1] for line in page.splitlines() if line.startswith(start)] for page in PAGES.values()
        ]
        assert [re.findall(r"[`\w.]+", row) for row in found[0]] == [re.findall(r"[`\w.]+", row) for row in found[1]]
    assert english.count("\n| ") == chinese.count("\n| ")


@pytest.mark.parametrize("name", PAGES)
def test_what_the_page_names_is_there(name):
    page = PAGES[name]
    files = set(re.findall(r"scripts/[\w./-]+\.(?:yaml|sh|py|Dockerfile)", page))
    assert len(files) >= 8 and all((ROOT / file).is_file() for file in files)
    launch_files = set(re.findall(r"`(npu_\w+\.yaml)`", page)) | {"npu_single.yaml"}
    assert launch_files == {file.name for file in (ROOT / "scripts/accelerate").glob("npu_*.yaml")}
    pinned = re.findall(r'"(torch|torch_npu)==([\d.]+)"', page)
    assert {version for _, version in pinned} == {PINS["torch"]} and len(pinned) == 3
    extras = re.search(r'"\.\[([\w,]+)\]"', page)[1]
    assert f"ARG EXTRAS={extras}\n" in (ROOT / "scripts/docker/ascend.Dockerfile").read_text()
    for block in blocks(page):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.mark.parametrize("name", PAGES)
def test_verify_is_called_as_it_is(name):
    (command,) = re.findall(r"finetune (verify http.*)", PAGES[name])
    assert command_parser().parse_args(command.split()).command == "verify"
