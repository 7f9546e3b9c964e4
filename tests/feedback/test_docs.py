"""docs/feedback.md is run from top to bottom in an empty folder, in both languages."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from finetune.cli import main
from finetune.data.prepare import prepare
from finetune.feedback.exchange import FEEDBACK
from finetune.feedback.intake import import_logs
from finetune.feedback.reasons import REASONS
from finetune.feedback.settings import Settings
from finetune.recipefile import load_recipe
from tests.conftest import ROOT
from tests.feedback.logs import said, values, write

PAGES = ["docs/feedback.md", "docs/feedback.zh-CN.md"]
RECIPE = """
name: gas
output_dir: runs/gas
model: {name_or_path: org/m}
train: {max_steps: 1}
data: {format: messages, train: ../rows.jsonl, split: {eval_rows: 3}}
"""


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page, here, capfd):
    (here / "may.jsonl").write_text(blocks(page, "json")[0], encoding="utf-8")
    write(here, [said(f"{n}?", "x", rating=n) for n in (1, 2, 3, 4, 5)], "stars.jsonl")
    write(here, [said("a?", rating=1), said("b?", rating=0), said("c?", rating="solved")], "clicks.jsonl")
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert [shlex.split(line)[:4] for line in commands] == [
        ["finetune", "feedback", "import", f"{name}.jsonl"] for name in ("may", "stars", "clicks")
    ]
    assert main(shlex.split(commands[0])[1:]) == 0
    assert [capfd.readouterr().out] == blocks(page, "text")
    assert [main(shlex.split(command)[1:]) for command in commands[1:]] == [0, 0]
    files = [(here / name / "labelled.jsonl").read_text() for name in ("stars", "clicks")]
    labels = [[json.loads(row)["label"] for row in text.splitlines()] for text in files]
    assert labels == [[False, False, False, True], [True, False, True]]
    (here / "recipes").mkdir()
    (here / "recipes/gas.yaml").write_text(RECIPE)
    (here / "rows.jsonl").write_text("".join(json.dumps({"messages": said_row(n)}) + "\n" for n in range(12)))
    exec(compile(blocks(page, "python")[0], page, "exec"), {})
    assert [(here / "recipes/gas_v0001.yaml").read_text()] == blocks(page, "yaml")
    parent, child = (load_recipe(here / f"recipes/{name}.yaml") for name in ("gas", "gas_v0001"))
    old, new = prepare(parent.data, parent.seed), prepare(child.data, child.seed)
    assert [sample.messages for sample in new.evaluate] == [sample.messages for sample in old.evaluate]
    assert (len(old.train), len(old.evaluate), len(new.train)) == (9, 3, 9 + 2 * 3)
    assert (
        json.loads((here / "data/v0001/version.json").read_text())["used_by"][0]["recipe"] == "recipes/gas_v0001.yaml"
    )


def said_row(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"answer {n}"}]


@pytest.mark.parametrize("page", PAGES)
def test_every_shape_on_the_page_is_read(page, here):
    """Each gives the row of the question 2+2; the first example is the one above."""
    for text in blocks(page, "json")[1:]:
        (here / "log.jsonl").write_text(text, encoding="utf-8")
        [row] = values(import_logs(["log.jsonl"], Settings(good=("5",))), "sft")
        assert [message["content"] for message in row["messages"][-2:]] == ["2+2?", "4"]
    assert len(blocks(page, "json")) == 4


@pytest.mark.parametrize("page", PAGES)
def test_every_reason_and_every_key_is_on_the_page(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert told.keys() >= REASONS.keys()
    assert [key for key in FEEDBACK if f"`{key}`" not in text] == []
    if page == PAGES[0]:
        assert {reason: told[reason] for reason in REASONS} == REASONS


def test_both_languages_have_the_same_examples():
    for kind in ("json", "bash", "text", "python", "yaml"):
        one, other = (blocks(page, kind) for page in PAGES)
        assert one == other and one
