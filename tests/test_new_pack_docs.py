"""docs/new_pack.md is run from top to bottom in an empty folder; only training is on the tiny base."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, suppress
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


def serve(words: list[str], places: dict[str, str], stack: ExitStack) -> None:
    """Starts the server of the second terminal, at a free port instead of the page's own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places[words[-1]] = port
    command = [sys.executable, "-m", "transformers.cli.transformers", *words[1:-1], port, "--device", "cpu"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = stack.enter_context(subprocess.Popen(command, **quiet))
    stack.callback(process.terminate)
    for _ in range(240):
        with suppress(OSError):
            urllib.request.urlopen(f"http://localhost:{port}/health", timeout=2).close()
            return
        time.sleep(0.5)
    raise AssertionError("the server does not answer")


def run(line: str, base: Path, capfd, places: dict[str, str], stack: ExitStack) -> str:
    """What a command prints; its exit code is the one that the comment says, else 0.

    Args:
        places: the ports of servers, by those of the page.
    """
    command, _, comment = line.partition("  # exit code ")
    for shown, real in places.items():
        command = command.replace(f":{shown}/", f":{real}/")
    words = shlex.split(command)
    if words[:2] == ["transformers", "serve"]:
        serve(words, places, stack)
    elif words[0] == "finetune":
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
    """From the rows to a server that is proven to serve the model of the run."""
    monkeypatch.chdir(tmp_path)
    said, told, places = [""], 0, {}
    with ExitStack() as servers:
        for kind, text, name in blocks(page):
            if kind in ("csv", "yaml"):
                write(name, text)
            elif kind == "bash":
                said.append("".join(run(line, tiny_base, capfd, places, servers) for line in text.splitlines()))
            else:
                assert kind == "text" and said[-1].rstrip() == text.rstrip()
                told += 1
    assert told == 3 and places.keys() == {"8000"}
    assert said[-4].endswith("right; 33 samples to train on, 9 held out\n")
    folder, served = said[-3], said[-1]
    for one in (folder, served):
        assert one.endswith("verified: this is the model that was evaluated\n")
    assert "sample 1 of 3" in folder and f"verify excursion: http://localhost:{places['8000']}/v1" in served


def test_both_languages_run_the_same():
    english, chinese = (blocks(page) for page in ("docs/new_pack.md", "docs/new_pack.zh-CN.md"))
    assert [kind for kind, _, _ in english] == [kind for kind, _, _ in chinese]
    one, other = ([text for kind, text, _ in page if kind == "bash"] for page in (english, chinese))
    same = [text.replace("consignments.csv", "运单.csv").replace("may.csv", "五月.csv") for text in one]
    assert same == other
