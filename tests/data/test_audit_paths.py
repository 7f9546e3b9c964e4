"""Paths in the audit: as a recipe would write them, never as this machine does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.audit import named_files
from finetune.cli import main
from finetune.data.audit_paths import Relative
from finetune.recipe_data import DataSection, SourceSection


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/srv/team/recipes/rows.jsonl:3", "rows.jsonl:3"),
        ("/srv/team/recipes/2024/rows.jsonl:3: phone: x", "2024/rows.jsonl:3: phone: x"),
        ("/srv/team/data/rows.csv:1 as /srv/team/recipes/a:2", "../data/rows.csv:1 as a:2"),
        ("/mnt/big/one/deep/x.csv:9", "…/one/deep/x.csv:9"),
        ("/mnt/big/two/one/x.csv:9", "…/two/one/x.csv:9"),
        ("org/name@0123/srv/team/recipes/a.csv:1", "org/name@0123/srv/team/recipes/a.csv:1"),
        ("3/srv/team/data/4", "3/srv/team/data/4"),
    ],
)
def test_paths_in_text(path, shown):
    """Two folders that share only the root with the recipe's, and their last name with each other, stay apart."""
    named = [Path("/srv/team/data/rows.csv"), Path("/mnt/big/one/a.csv"), Path("/mnt/big/two/one/x.csv")]
    assert Relative(Path("/srv/team/recipes"), named).text(path) == shown


def test_what_the_recipe_names():
    section = DataSection(
        format="auto",
        train=(SourceSection(path="/d/2*/x/*.csv"), SourceSection(path="/d/rows"), SourceSection(hub="org/name@1")),
        eval=(SourceSection(path="/e/a.csv"),),
    )
    assert named_files(section) == [Path("/d/2*"), Path("/d/rows"), Path("/e/a.csv")]


@pytest.fixture
def audited(tiny_recipe, tmp_path, capsys):
    """A function: the audit.json of the tiny recipe with overrides, and all text of both files."""

    def audit(*overrides: str) -> tuple[dict, str]:
        tiny_recipe()
        arguments = [argument for override in overrides for argument in ("--set", override)]
        main(["audit", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "audit"), *arguments])
        capsys.readouterr()
        files = [(tmp_path / "audit" / name).read_text(encoding="utf-8") for name in ("audit.json", "audit.html")]
        return json.loads(files[0]), "".join(files)

    return audit


def chat(question: str, answer: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"


def test_nothing_absolute_and_every_row_findable(audited, tmp_path):
    """T45: two files outside and inside the recipe's folder: notes, drops and finds stand with their own source."""
    (tmp_path / "rows").mkdir()
    first, second = tmp_path / "rows/first.jsonl", tmp_path / "second.jsonl"
    first.write_text("".join(chat(f"{n}?", f"it is {n}") for n in range(20)), encoding="utf-8")
    second.write_bytes((chat("几点？", "三点") + chat("几点？", "三点") + chat("x" * 900, "y")).encode("gb18030"))
    report, text = audited(
        "data.template=null",
        "data.format=messages",
        f"data.train=[{first}, {second}]",
        "data.split={eval_rows: 2}",
        "data.screen.exact_duplicates=drop",
        "data.max_length=200",
        "data.too_long=drop",
    )
    assert report["failed"] is False, report["reasons"]
    one, two = report["sources"]
    assert (one["name"], one["rows"], one["dropped"]) == ("rows/first.jsonl", 20, {})
    assert (two["name"], two["rows"]) == ("second.jsonl", 3)
    assert sorted(two["dropped"].values()) == [1, 1] and two["dropped"]["raw_duplicate"] == 1
    assert "not UTF-8, read as gb18030; `encoding:` says otherwise" in two["notes"]
    assert not any("gb18030" in note for note in (*one["notes"], *report["notes"]))
    assert {item["where"] for item in report["dropped"]} == {"second.jsonl:2", "second.jsonl:3"}
    assert str(tmp_path) not in text and str(Path.cwd()) not in text


def test_a_refused_find_is_counted_once(audited, tiny_data):
    """T45: forty rows that are held out too: one reason in the verdict, no second list of the same rows."""
    report, _ = audited("data.split=null", f"data.eval={tiny_data}/larger.jsonl")
    assert report["reasons"] == ["refused by data.screen.train_eval_overlap: 40"]
    assert report["problems"] == []
    assert [item["action"] for item in report["findings"]] == ["refused"] * 40
