"""Versions of feedback data, and the recipe that trains on one beside what it was trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from finetune.data.prepare import prepare
from finetune.errors import DataError, RecipeError
from finetune.feedback.extension import extending_recipe
from finetune.feedback.folder import write_folder
from finetune.feedback.version import add_version, ancestry, read_version, record_use, version_names
from finetune.recipefile import load_recipe
from tests.feedback.logs import imported, said

TEMPLATE = """
name: sum
description: a sum of two numbers
columns:
  a: {type: int}
  shop: {type: str}
messages:
  - {role: user, content: "{{ a }}+{{ a }}?"}
  - {role: assistant, content: "{{ a + a }}"}
metric: {name: exact_match}
examples:
  - {row: {a: 1, shop: x}, answer: "2"}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A recipe with a template and rows of ten shops, and an import of two good answers."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "t.yaml").write_text(TEMPLATE)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"a": n, "shop": f"s{n % 10}"}) + "\n" for n in range(40)))
    recipe(
        tmp_path,
        "base",
        data={"template": "../t.yaml", "train": "../rows.jsonl", "split": {"by": "shop", "eval_rows": 8}},
    )
    write_folder(
        tmp_path / "import",
        imported(tmp_path, [said("60+60?", "120", rating="up"), said("61+61?", "1", correction="122")]),
    )
    return tmp_path


def recipe(folder: Path, name: str, **keys) -> Path:
    file = folder / f"recipes/{name}.yaml"
    values = {"name": name, "output_dir": f"runs/{name}", "model": {"name_or_path": "org/m"}, "train": {"max_steps": 1}}
    file.write_text(yaml.safe_dump(values | keys))
    return file


def prompts(samples) -> list[str]:
    return [sample.messages[0]["content"] for sample in samples]


def test_versions_are_numbered_and_know_their_parents(folder):
    root = folder / "data"
    assert version_names(root) == []
    first = add_version(root, folder / "import")
    second = add_version(root, folder / "import")
    (root / "v00x").mkdir()
    assert (first.name, first.parent, second.name, second.parent) == ("v0001", None, "v0002", "v0001")
    assert version_names(root) == ["v0001", "v0002"]
    assert [version.name for version in ancestry(read_version(root / "v0002"))] == ["v0002", "v0001"]
    values = json.loads((root / "v0002/version.json").read_text())
    assert (values["version"], values["parent"], values["used_by"]) == ("v0002", "v0001", [])
    there = {file.name for file in (root / "v0002").iterdir()} - {"version.json"}
    assert values["files"] == {name: hashlib.sha256((root / "v0002" / name).read_bytes()).hexdigest() for name in there}
    assert second.rows() == {
        "sft.jsonl": 2,
        "preference.jsonl": 1,
        "labelled.jsonl": 2,
        "left_out.jsonl": 0,
        "lineage.jsonl": 5,
    }


def test_what_has_changed_is_no_version(folder):
    version = add_version(folder / "data", folder / "import")
    (version.folder / "sft.jsonl").write_text("{}\n")
    (version.folder / "lineage.jsonl").unlink()
    with pytest.raises(DataError) as raised:
        read_version(version.folder)
    assert sorted(raised.value.problems) == [
        f"{version.folder}/lineage.jsonl: is missing",
        f"{version.folder}/sft.jsonl: has changed: its sha256 is not the one written down",
    ]
    with pytest.raises(DataError, match=r"recipes/feedback.json: can't be read: No such file or directory"):
        add_version(folder / "data", folder / "recipes")
    assert version_names(folder / "data") == ["v0001"]


def test_the_recipes_that_used_a_version_are_written_down_once(folder):
    version = add_version(folder / "data", folder / "import")
    base = folder / "recipes/base.yaml"
    used = record_use(record_use(version, base), base)
    digest = hashlib.sha256(base.read_bytes()).hexdigest()
    assert used.used_by == read_version(version.folder).used_by == ({"recipe": str(base), "sha256": digest},)
    with pytest.raises(RecipeError, match=r"none.yaml: no such file$"):
        record_use(version, folder / "none.yaml")


def test_the_extending_recipe_trains_on_both_and_holds_out_the_same(folder):
    """The template makes the old rows, the version's are conversations, and the split by shop does not see them."""
    version = add_version(folder / "data", folder / "import")
    base, target = folder / "recipes/base.yaml", folder / "runs/child.yaml"
    text = extending_recipe(base, version, target)
    assert yaml.safe_load(text) == {
        "extends": "../recipes/base.yaml", "name": "base_v0001", "output_dir": "runs/base_v0001",
        "data": {"train": [
            {"path": "../rows.jsonl"},
            {"path": "../data/v0001/sft.jsonl", "format": "messages", "hold_out": False, "provenance": "feedback v0001"},
        ]},
    }  # fmt: skip
    assert not target.exists()
    target.parent.mkdir()
    target.write_text(text)
    before, after = (load_recipe(file) for file in (base, target))
    old, new = prepare(before.data, before.seed), prepare(after.data, after.seed)
    assert prompts(new.evaluate) == prompts(old.evaluate)
    assert prompts(new.train) == [*prompts(old.train), "60+60?", "61+61?"]
    assert new.metrics == old.metrics


def test_a_second_version_comes_beside_the_first(folder):
    root, target = folder / "data", folder / "recipes/v1.yaml"
    versions = [add_version(root, folder / "import") for _ in range(2)]
    target.write_text(extending_recipe(folder / "recipes/base.yaml", versions[0], target))
    with pytest.raises(RecipeError, match=r"recipes/v1.yaml: data.train: has v0001 already$"):
        extending_recipe(target, versions[0], folder / "recipes/v2.yaml")
    values = yaml.safe_load(extending_recipe(target, versions[1], folder / "recipes/v2.yaml", repeat=3))
    assert [source["path"] for source in values["data"]["train"]] == [
        "../rows.jsonl", "../data/v0001/sft.jsonl", "../data/v0002/sft.jsonl"
    ]  # fmt: skip
    assert (values["name"], values["data"]["train"][2]["repeat"]) == ("base_v0002", 3)


def test_a_share_of_the_new_rows_leaves_the_old_sources_their_ratio(folder):
    """Old weights 3 and 1, the new rows a fifth: 0.6, 0.2, 0.2."""
    version = add_version(folder / "data", folder / "import")
    data = {"format": "messages", "split": {"eval_rows": 1}}
    old = [{"path": "../import/sft.jsonl", "weight": 3}, {"path": "../import/sft.jsonl", "weight": 1}]
    weighted = recipe(folder, "weighted", data=data | {"train": old})
    [*values] = yaml.safe_load(extending_recipe(weighted, version, folder / "recipes/x.yaml", share=0.2))["data"][
        "train"
    ]
    assert [source["weight"] for source in values] == [0.6, 0.2, 0.2]
    single = yaml.safe_load(
        extending_recipe(folder / "recipes/base.yaml", version, folder / "recipes/x.yaml", share=0.25)
    )
    assert [source["weight"] for source in single["data"]["train"]] == [0.75, 0.25]
    with pytest.raises(RecipeError, match="its sources have weights; say the share of the new rows"):
        extending_recipe(weighted, version, folder / "recipes/x.yaml")
    plain = recipe(folder, "plain", data=data | {"train": ["../import/sft.jsonl", "../rows.jsonl"]})
    with pytest.raises(
        RecipeError, match=f"without a weight no share can be had: {folder}/import/sft.jsonl, {folder}/rows.jsonl"
    ):
        extending_recipe(plain, version, folder / "recipes/x.yaml", share=0.2)
    for share in (0.0, 1.0):
        with pytest.raises(RecipeError, match="share: a number above 0 and below 1 is needed"):
            extending_recipe(single_base(folder), version, folder / "recipes/x.yaml", share=share)


def single_base(folder: Path) -> Path:
    return folder / "recipes/base.yaml"


def test_each_stage_takes_its_file(folder):
    version = add_version(folder / "data", folder / "import")
    for stage, file, format in (("dpo", "preference", "preference"), ("kto", "labelled", "labelled")):
        data = {"format": format, "train": f"../import/{file}.jsonl", "eval": f"../import/{file}.jsonl"}
        text = extending_recipe(recipe(folder, stage, stage=stage, data=data), version, folder / "recipes/x.yaml")
        source = yaml.safe_load(text)["data"]["train"][1]
        assert source == {"path": f"../data/v0001/{file}.jsonl", "format": format, "provenance": "feedback v0001"}
    cpt = recipe(folder, "cpt", stage="cpt", data={"format": "text", "train": "../rows.jsonl", "eval": "../rows.jsonl"})
    with pytest.raises(
        RecipeError, match="stage cpt trains on text; feedback gives conversation, preference, labelled"
    ):
        extending_recipe(cpt, version, folder / "recipes/x.yaml")
    write_folder(folder / "bad", imported(folder, [said(rating="down")]))
    with pytest.raises(RecipeError, match=r"v0002: has no sft.jsonl, which stage sft needs"):
        extending_recipe(
            folder / "recipes/base.yaml", add_version(folder / "data", folder / "bad"), folder / "recipes/x.yaml"
        )


def test_a_chain_is_extended_by_hand(folder):
    version = add_version(folder / "data", folder / "import")
    data = {"template": "../t.yaml", "train": "../rows.jsonl", "split": {"eval_rows": 8}}
    stages = [{"name": "one", "stage": "sft"}, {"name": "two", "stage": "sft"}]
    chain = recipe(folder, "chain", data=data, stages=stages)
    with pytest.raises(RecipeError, match=r"chain.yaml: holds several stages \(chain.one, chain.two\); add the source"):
        extending_recipe(chain, version, folder / "recipes/x.yaml")


def test_rows_are_not_held_out_twice(folder):
    """`hold_out: false` says something only beside a split, and not of every source."""
    for data, message in (
        (
            {"train": [{"path": "../rows.jsonl", "hold_out": False}], "split": {"eval_rows": 1}},
            "every source says `hold_out: false`",
        ),
        (
            {"train": [{"path": "../rows.jsonl", "hold_out": False}], "eval": "../rows.jsonl"},
            "is for sources of `train` beside a `split`",
        ),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe(recipe(folder, "wrong", data=data | {"template": "../t.yaml"}))


def test_sources_keep_what_they_said_with_their_paths_from_the_new_place(folder):
    """A hub's name stays; a copy of a hub's set begins with a dot, so that it is one there too."""
    version = add_version(folder / "data", folder / "import")
    (folder / "copy").mkdir()
    old = [
        {"path": "../import/*.jsonl", "encoding": "gb18030", "repeat": 2},
        {"hub": "org/set@main", "split": "train"},
        {"hub": "../copy@v1"},
    ]
    many = recipe(folder, "many", data={"format": "messages", "train": old, "eval": "../import/sft.jsonl"})
    values = yaml.safe_load(extending_recipe(many, version, folder / "x.yaml"))
    assert values["data"]["train"][:3] == [
        {"path": "import/*.jsonl", "encoding": "gb18030", "repeat": 2},
        {"hub": "org/set@main", "split": "train"},
        {"hub": "./copy@v1"},
    ]
