"""A mixture of one stage is that stage, bit for bit; a mixture of several does not depend on how a batch is split."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

from finetune.cli import main
from finetune.errors import RecipeError
from finetune.recipefile import load_recipe
from finetune.run import run
from finetune.stages.sft import Sft
from finetune.stop import Preempted
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.processes import torchrun
from tests.equivalence.test_batches import assert_same_run

LOOKS = ["train.eval_steps=4", "evaluate.rows=3", "evaluate.max_new_tokens=6"]
TEXTS = [
    f"Fan number {i} turns {i * 13 % 50} times a minute; the belt of line {i % 7} stands still." for i in range(10)
]


def as_mixture(file: Path, *more: dict, **part) -> Path:
    """The same recipe as a mixture of that one stage (called sft), and of these further parts."""
    recipe = yaml.safe_load(file.read_text())
    first = {"name": "sft", "stage": "sft", "weight": 3, "data": recipe.pop("data")} | part
    recipe["mixture"] = [first, *more]
    mixed = file.with_name("mixed.yaml")
    mixed.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return mixed


def text_part(folder: Path) -> dict:
    """Ten documents, two of them held out."""
    (folder / "fans.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    data = {
        "format": "text", "train": str(folder / "fans.jsonl"), "split": {"eval_rows": 2}, "max_length": 64,
        "too_long": "split",
    }  # fmt: skip
    return {"name": "replay", "stage": "cpt", "weight": 1, "data": data}


def preference_part(folder: Path) -> dict:
    """Pairs of answers to the tiny task's prompts."""
    rows = [
        {"prompt": f"{a} {b} which?", "chosen": f"larger {max(a, b)}", "rejected": f"larger {min(a, b)}, I think"}
        for a, b in ((1, 2), (3, 9), (8, 4), (7, 5), (6, 2), (0, 9), (5, 3))
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"format": "preference", "train": str(folder / "pairs.jsonl"), "split": {"eval_rows": 2}}
    return {"stage": "dpo", "weight": 2, "loss_weight": 0.5, "dpo": {"beta": 0.5}, "data": data}


def mixture(folder: Path, base: Path, data: Path, *settings: str):
    """The recipe of three parts: conversations, documents and pairs, by 3 : 1 : 2."""
    file = as_mixture(write_tiny_recipe(folder, base, data), text_part(folder), preference_part(folder))
    return load_recipe(file, [*LOOKS, "train.global_batch_size=6", "train.max_steps=8", *settings])


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tiny_base, tiny_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    recipe = load_recipe(write_tiny_recipe(folder, tiny_base, tiny_data), LOOKS)
    run(recipe)
    return recipe.output_dir


@pytest.fixture(scope="module")
def mixed(tiny_base, tiny_data, tmp_path_factory) -> Path:
    recipe = mixture(tmp_path_factory.mktemp("mixed"), tiny_base, tiny_data, "train.micro_batch_size=6")
    run(recipe)
    return recipe.output_dir


def test_a_mixture_of_one_is_the_stage_alone(alone, tiny_base, tiny_data, tmp_path):
    """Bit for bit: the loss of every step, of every look, the adapter's bytes, the answers.

    31 rows in batches of 4 for 9 steps: an epoch ends within, with a batch of 3.
    """
    recipe = load_recipe(as_mixture(write_tiny_recipe(tmp_path, tiny_base, tiny_data)), LOOKS)
    result = run(recipe)
    one, other = lines(alone), lines(recipe.output_dir)
    names = ("loss", "token_accuracy", "grad_norm", "learning_rate", "eval_loss")
    for left, right in zip(one, other, strict=True):
        for name in names:
            alias = f"sft/{name}" if name == "token_accuracy" else name
            assert left.get(name) == right.get(alias), name
        assert right.get("sft/loss") == left.get("loss")
        assert right.get("eval_sft/loss") == left.get("eval_loss")
    left, right = (folder / "adapter/adapter_model.safetensors" for folder in (alone, recipe.output_dir))
    assert left.read_bytes() == right.read_bytes()
    assert (alone / "answers.tuned.jsonl").read_text() == (recipe.output_dir / "answers.sft.tuned.jsonl").read_text()
    told = json.loads((alone / "bundle/MANIFEST.json").read_text())["scores"]["tuned"]
    assert result.scores["tuned"] == {f"sft/{name}": value for name, value in told.items()}


def test_each_part_is_logged_apart_and_the_whole_is_their_weighted_mean(mixed):
    """Of 6 items by 3 : 1 : 2 every step has 3, 1 and 2: loss = 1/2 sft + 1/6 replay + 1/2 * 1/3 dpo."""
    steps = [line for line in lines(mixed) if "loss" in line]
    assert len(steps) == 8
    for step in steps:
        whole = step["sft/loss"] / 2 + step["replay/loss"] / 6 + 0.5 * step["dpo/loss"] / 3
        assert step["loss"] == pytest.approx(whole, rel=1e-6)
        assert {"sft/token_accuracy", "replay/token_accuracy", "dpo/rewards/margins", "dpo/logps/chosen"} <= step.keys()
    looks = [line for line in lines(mixed) if "eval_loss" in line]
    assert len(looks) == 2
    for look in looks:
        whole = look["eval_sft/loss"] / 2 + look["eval_replay/loss"] / 6 + 0.5 * look["eval_dpo/loss"] / 3
        assert look["eval_loss"] == pytest.approx(whole, rel=1e-9)
    assert steps[0]["dpo/loss"] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-6)  # no margin yet


@pytest.mark.parametrize("micro_batch", [pytest.param(2, marks=pytest.mark.slow), 1])
def test_micro_batches(mixed, tiny_base, tiny_data, tmp_path, micro_batch):
    """A micro-batch is of one part; however many there are, the run is the same."""
    recipe = mixture(tmp_path, tiny_base, tiny_data, f"train.micro_batch_size={micro_batch}")
    run(recipe)
    assert_same_run(recipe.output_dir, mixed)


def test_scores_and_bundle(mixed):
    """Answers of the conversations and of the pairs' prompts, the held-out loss of the documents; each under its name."""
    manifest = json.loads((mixed / "bundle/MANIFEST.json").read_text())
    names = list(manifest["scores"]["tuned"])
    assert names[0] == "sft/field_match"
    assert {"sft/all_fields", "sft/finished", "replay/mean_logprob", "replay/token_accuracy", "dpo/exact_match"} <= set(
        names
    )
    assert manifest["data"]["train_samples"] == 31 + 8 + 5 and manifest["data"]["evaluate_samples"] == 3 + 2 + 2
    assert list(manifest["data"]["parts"]) == ["sft", "replay", "dpo"]
    assert manifest["merge_proof"]["rows"] == 3 + 4 + 2  # the two documents are four pieces
    golden = [json.loads(line) for line in (mixed / "bundle/golden.jsonl").read_text().splitlines()]
    assert len(golden) == 3 + 2
    again = load_recipe(mixed / "bundle/recipe.yaml")
    assert [(part.name, part.stage, part.weight, part.loss_weight) for part in again.mixture] == [
        ("tiny.sft", "sft", 3, 1.0), ("tiny.replay", "cpt", 1, 1.0), ("tiny.dpo", "dpo", 2, 0.5),
    ]  # fmt: skip
    assert again.mixture[2].settings.beta == 0.5


def stopped(recipe, calls: int, monkeypatch) -> None:
    """Runs `recipe` until its process gets SIGTERM within the loss's call number `calls` of conversations."""
    plain, seen = Sft.loss, []

    def interrupted(self, model, batch):
        seen.append(1)
        if len(seen) == calls:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, model, batch)

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Sft, "loss", interrupted)
        run(recipe)


def test_resumed(mixed, tiny_base, tiny_data, tmp_path, monkeypatch):
    """Stopped within step 6, the second one after a look: every later loss of every part, and the adapter, bit for bit."""
    recipe = mixture(tmp_path, tiny_base, tiny_data, "train.micro_batch_size=6")
    stopped(recipe, 7, monkeypatch)  # of six steps, and of the one look
    assert json.loads((recipe.output_dir / "run_state.json").read_text())["step"] == 6
    torch.manual_seed(99)
    run(recipe, resume="auto")
    names = ("loss", "sft/loss", "replay/loss", "dpo/loss", "eval_loss", "grad_norm", "dpo/rewards/margins")
    told = [[{n: line.get(n) for n in names} for line in lines(folder)] for folder in (mixed, recipe.output_dir)]
    assert told[0] == told[1]
    weights = "adapter/adapter_model.safetensors"
    assert (mixed / weights).read_bytes() == (recipe.output_dir / weights).read_bytes()


def test_another_weight_is_another_run(tiny_base, tiny_data, tmp_path, monkeypatch):
    recipe = mixture(tmp_path, tiny_base, tiny_data)
    stopped(recipe, 3, monkeypatch)
    other = mixture(tmp_path, tiny_base, tiny_data, "mixture.1.weight=2")
    with pytest.raises(RecipeError, match=r"mixture\.replay"):
        run(other, resume="auto")


@pytest.mark.slow
def test_two_processes(mixed, tiny_base, tiny_data, tmp_path):
    """Two gloo processes = one, where one of them has no row of a part in most steps."""
    mixture(tmp_path, tiny_base, tiny_data)
    settings = [*LOOKS, "train.global_batch_size=6", "train.max_steps=8", "train.micro_batch_size=1"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    torchrun([ROOT / "scripts/train.py", tmp_path / "mixed.yaml", *arguments])
    assert_same_run(tmp_path / "run", mixed)
    scores = [json.loads((f / "bundle/MANIFEST.json").read_text())["scores"] for f in (mixed, tmp_path / "run")]
    assert scores[0]["tuned"] == pytest.approx(scores[1]["tuned"], abs=1e-5)


@pytest.mark.slow
def test_a_bundle_of_a_mixture_is_reproduced(mixed, tmp_path, capsys):
    assert main(["reproduce", str(mixed / "bundle"), "--output", str(tmp_path / "again")]) == 0
    assert "reproduced" in capsys.readouterr().out
