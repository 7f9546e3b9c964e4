"""The commands of the pages, run as they stand there, beside finished runs of a tiny base under the names that the pages use.

The README, docs/recipe.md and docs/reliability.md are run by tests/test_shipped.py, feedback, migrate and new_pack by tests of
their own. What trains, or asks a server, a hub or another device is run elsewhere, as ELSEWHERE says.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shlex
import shutil
from pathlib import Path

import pytest

from finetune.cli import main
from tests.conftest import ROOT
from tests.test_docs import PAGES, typed_lines
from tests.test_shipped import small

METAR = "recipes/meteorology/metar_decode.yaml"
NAMES = {
    "RECIPE": METAR,
    "ADAPTER": "runs/metar_decode/bundle/adapter",
    "org/model": "runs/metar_decode/base",
    "/data/runs": "runs",
}
OWN_TESTS = {"README", "feedback", "migrate", "new_pack", "recipe", "reliability"}
ELSEWHERE = {
    r"^train ": "tests/test_shipped.py and tests/packs run every recipe to a bundle",
    r"^smoke ": "tests/test_smoke.py",
    r"^iterate ": "tests/test_iterate.py",
    r"^parity ": "tests/parity, tests/parity_devices",
    r"^verify \S*(://|\$URL)": "tests/verify, against servers",
    r"--push-to-": "tests/export/test_push.py",
    r"^reproduce ": "tests/test_reproduce.py",
    r"--trained-on nf4": "needs a quantised base: tests/export",
    r"--set device=npu": "tests/npu",
    r"^doctor": "tests/doctor; what it finds is the machine's",
}
ROWS_OF_USERS = {  # what a page calls the reader's own rows: the sample of the recipe's template
    "calls.jsonl": "government/hotline_dispatch", "requests.jsonl": "manufacturing/equipment_calls",
    "metars.jsonl": "meteorology/flight_category", "warnings.jsonl": "meteorology/warning_facts",
    "tickets.jsonl": "power/switching_order", "pqal.jsonl": "pharma/pubmedqa", "nvd.jsonl": "security/cvss_vector",
}  # fmt: skip


def lines_of(page: Path) -> list[str]:
    return [line.removeprefix("finetune ") for line in typed_lines(page)]


def elsewhere(line: str) -> bool:
    return any(re.search(pattern, line) for pattern in ELSEWHERE)


def english(page: Path) -> bool:
    return ".zh-CN" not in page.name


RUN_HERE = [
    pytest.param(line, id=f"{page.stem}: {line}"[:90])
    for page in PAGES
    if english(page) and page.stem not in OWN_TESTS
    for line in dict.fromkeys(lines_of(page))
    if not elsewhere(line)
]


def test_both_languages_show_the_same_commands():
    compared = 0
    for page in filter(english, PAGES):
        other = page.with_name(page.name.replace(".md", ".zh-CN.md"))
        if other.exists() and page.stem != "new_pack":  # whose rows are in its own language
            assert lines_of(page) == lines_of(other), page
            compared += 1
    assert compared >= 55


def test_what_is_run_elsewhere_is_there():
    """No pattern stands for nothing, and the tests that it names exist."""
    lines = [line for page in PAGES if english(page) for line in lines_of(page)]
    for pattern, why in ELSEWHERE.items():
        assert any(re.search(pattern, line) for line in lines), pattern
        for name in re.findall(r"tests/[\w/]+(?:\.py)?", why):
            assert (ROOT / name).exists(), name
    assert len(RUN_HERE) >= 50


def write_questions(folder: Path) -> None:
    """For `finetune raft`: passages of words of their own, eighty, as each fold sees a tenth of them."""
    some = random.Random(0)
    texts = ["".join(some.choices("abcdefgh ", k=80)) + f" in roadway {n}" for n in range(80)]
    rows = [{"question": f"What is in roadway {n}?", "answer": "CH4", "gold": f"p{n}"} for n in range(9)]
    for name, found in (
        ("questions", rows),
        ("passages", [{"id": f"p{n}", "text": text} for n, text in enumerate(texts)]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tiny_base, tmp_path_factory) -> Path:
    """A checkout's recipes and templates, and finished runs of the METAR recipe on the tiny base."""
    folder = tmp_path_factory.mktemp("checkout") / "finetune"
    for name in ("recipes", "data_templates", "docs", "scripts"):
        shutil.copytree(ROOT / name, folder / name)
    if (ROOT.parent / "shared").exists():
        (folder.parent / "shared").symlink_to(ROOT.parent / "shared")
    (folder / "runs").mkdir()
    for file, template in ROWS_OF_USERS.items():
        sample = next((ROOT / "data_templates").glob(f"{template}.sample.json*"))
        shutil.copyfile(sample, folder / file)
    run = folder / "runs/metar_decode"
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["train", METAR, *small(tiny_base, run)]) == 0
    finally:
        os.chdir(before)
    shutil.copytree(tiny_base, run / "base", dirs_exist_ok=True)
    for name in ("mine", "a", "b", "cashflow", "metar", "excursion"):
        shutil.copytree(run, folder / "runs" / name)
    shutil.copytree(run / "bundle", folder / "bundle")
    write_questions(folder)
    (folder / "prompts.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "a?"}]}) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN_HERE)
def test_a_command_of_a_page(line, finished, tiny_base, tiny_tool_base, monkeypatch, capsys):
    if "../shared" in line and not (finished.parent / "shared").exists():
        pytest.skip("real data, which is not part of the repository")
    monkeypatch.chdir(finished)
    words = [NAMES.get(word, word) for word in shlex.split(line)]
    if words[0] in ("evaluate", "gate"):
        words += small(tiny_base, finished / "runs/metar_decode")
    if "recipes/manufacturing/equipment_calls.yaml" in words:  # a base of the hub, with tools
        words += small(tiny_tool_base, finished / "runs/calls")
    if words[0] == "export":  # two pages call what they make `bundle`
        words.append("--overwrite")
    if "data.eval=warnings.jsonl" in words:  # here the reader's rows are those that the recipe trains on
        words += ["--set", "data.screen.train_eval_overlap=report"]
    monkeypatch.setattr("sys.stdin", io.StringIO("KMSP 220153Z 00000KT 10SM CLR 13/02 A2962\n"))  # for chat
    assert main(words) == 0, capsys.readouterr().err
    capsys.readouterr()
