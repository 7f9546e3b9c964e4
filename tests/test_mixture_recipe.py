"""What `mixture:` may say, and what check, show and audit say of it."""

from __future__ import annotations

import json

import pytest
import yaml

from finetune.cli import main
from finetune.errors import RecipeError
from finetune.recipefile import load_recipe
from tests.conftest import write_tiny_recipe


@pytest.fixture
def file(tiny_base, tiny_data, tmp_path):
    """A recipe of two parts: the tiny task (sft), and text."""
    recipe = yaml.safe_load(write_tiny_recipe(tmp_path, tiny_base, tiny_data).read_text())
    rows = [{"text": f"Belt {i} stands still since {i + 3} o'clock."} for i in range(6)]
    (tmp_path / "belts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = recipe.pop("data")
    recipe["data"] = {"max_length": 200}
    text = {"format": "text", "train": "belts.jsonl", "split": {"eval_rows": 1}}
    recipe["mixture"] = [
        {"stage": "sft", "weight": 3, "data": task},
        {"name": "text", "stage": "cpt", "weight": 1.5, "loss_weight": 0.5, "data": text, "cpt": {"eos_token": None}},
    ]
    mixed = tmp_path / "mixed.yaml"
    mixed.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return mixed


def changed(file, **more):
    """The recipe's file with these keys instead."""
    file.write_text(json.dumps(yaml.safe_load(file.read_text()) | more, indent=1))  # JSON is YAML, without anchors
    return file


def test_each_part_is_a_recipe_of_its_own(file, tmp_path):
    """With its own data over the shared ones, and everything else of the whole."""
    recipe = load_recipe(file, ["mixture.1.data.max_length=300", "data.workers=2", "seed=5"])
    first, second = recipe.mixture
    assert (recipe.name, recipe.stage, recipe.weight) == ("tiny", "sft", None)
    assert (first.name, first.stage, first.weight, first.loss_weight) == ("tiny.sft", "sft", 3, 1.0)
    assert (second.name, second.stage, second.weight, second.loss_weight) == ("tiny.text", "cpt", 1.5, 0.5)
    assert (first.data.max_length, second.data.max_length) == (200, 300)
    assert second.data.train[0].path == str(tmp_path / "belts.jsonl")
    assert {part.data.workers for part in recipe.mixture} == {2} and {part.seed for part in recipe.mixture} == {5}
    assert first.output_dir == second.output_dir == recipe.output_dir


def parts(*entries):
    return {"mixture": list(entries)}


DATA = {"format": "text", "train": "belts.jsonl", "split": {"eval_rows": 1}}


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (parts(), ["mixture: a list of parts is needed, each with `stage`, `weight` and `data`"]),
        ({"stage": "sft"}, ["stage: is given by each part of `mixture`"]),
        ({"weight": 2}, ["weight: is given by each part of `mixture`"]),
        ({"cpt": {}}, ["cpt: is given by each part of `mixture`"]),
        ({"stages": []}, ["stages: a chain can't be a mixture"]),
        (
            parts({"stage": "cpt", "data": DATA}, {"stage": "cpt", "weight": 0, "data": DATA}),
            [
                "mixture.0: several parts are called 'cpt'; give each a `name`",
                "mixture.0.weight: is missing: the part's share of the items of a batch",
                "mixture.1: several parts are called 'cpt'; give each a `name`",
                "weight: input should be greater than 0; got 0",
            ],
        ),
        (
            parts({"stage": "grpo", "weight": 1, "data": DATA, "train": {}}),
            ["mixture.0.train: not a key of a part", "mixture.0.stage: 'grpo' can't be a part; cpt, sft, dpo"],
        ),
        (
            parts({"stage": "cpt", "weight": 1, "data": DATA | {"train": "nothing.jsonl"}, "sft": {}}),
            ["sft: is for stage sft; this recipe's stage is cpt"],
        ),
        (
            parts({"stage": "dpo", "weight": 1, "data": DATA, "dpo": {"precompute_ref_log_probs": True}}),
            ["mixture.0.dpo.precompute_ref_log_probs: not in a mixture, where each step computes its own"],
        ),
    ],
)
def test_what_a_mixture_may_not_say(file, change, problems):
    with pytest.raises(RecipeError) as caught:
        load_recipe(changed(file, **change))
    for wanted in problems:
        assert any(wanted in problem and ".yaml:" in problem for problem in caught.value.problems), (
            caught.value.problems
        )


def test_a_weight_belongs_to_a_part(tiny_recipe):
    for key in ("weight", "loss_weight"):
        with pytest.raises(RecipeError, match=f"{key}: is for the parts of a `mixture`"):
            tiny_recipe(f"{key}=2")


def test_check_show_and_audit_look_at_every_part(file, tmp_path, capsys):
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    assert "part tiny.sft: right; 31 samples to train on, 9 held out" in out
    assert "part tiny.text: right; 5 samples to train on, 1 held out" in out
    assert main(["show", str(file), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert "=== part tiny.sft: sft" in out and "=== part tiny.text: cpt" in out and "B⟦elt" in out
    assert main(["audit", str(file), "--output", str(tmp_path / "audit")]) == 0
    assert sorted(page.parent.name for page in (tmp_path / "audit").rglob("audit.json")) == ["tiny.sft", "tiny.text"]


def test_the_problems_of_all_parts_come_at_once(file, tmp_path, capsys):
    (tmp_path / "belts.jsonl").write_text('{"text": ""}\n{"text": 3}\n')
    assert main(["check", str(file), "--set", "mixture.0.data.split.by=team"]) == 2
    error = capsys.readouterr().err
    assert "data.split.by: 'team' is not a column" in error
    assert "belts.jsonl:1: text: is empty" in error and "belts.jsonl:2: text: text is needed, got 3" in error


def test_scores_have_the_names_of_their_parts(file, capsys):
    assert main(["check", str(file), "--set", "gate.min={sft/field_match: 0.5, text/mean_logprob: -3}"]) == 0
    assert main(["check", str(file), "--set", "gate.min={field_match: 0.5}"]) == 2
    assert "gate.min.field_match: not a score" in capsys.readouterr().err


def test_held_out_rows_of_one_part_are_not_trained_in_another(file, tmp_path, capsys):
    """The other part's files are the same rows: what is held out there is trained on here."""
    entries = yaml.safe_load(file.read_text())["mixture"]
    other = entries[1] | {"name": "again", "data": entries[1]["data"] | {"split": {"eval_rows": 2}}}
    assert main(["check", str(changed(file, mixture=[*entries, other]))]) == 2
    assert "trained on in stage tiny.text, held out in tiny.again" in capsys.readouterr().err
