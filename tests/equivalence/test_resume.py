"""A run that was stopped and taken up again is the run that was not: every later loss, and the adapter, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.run import run
from finetune.stages.sft import Sft
from finetune.stop import Preempted
from tests.conftest import ROOT, write_tiny_recipe

# 31 rows in batches of 4: epochs of 8 steps, the last of each with 3 rows; micro-batches of 2, dropout, three epochs.
LONG = (
    "train.max_steps=20", "train.micro_batch_size=2", "lora.lora_dropout=0.1", "train.save_steps=6",
    "train.logging_steps=2", "evaluate.rows=2",
)  # fmt: skip


def exact(folder: Path) -> list[tuple[float, ...]]:
    """What must be equal to the last bit: step, loss, learning rate, gradient norm of each line."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["learning_rate"], line["grad_norm"]) for line in lines if "loss" in line]


def assert_same_bits(one: Path, other: Path) -> None:
    assert exact(one) == exact(other)
    weights = "adapter/adapter_model.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()


def run_until(recipe: Recipe, calls: int, monkeypatch, resume: str | None = None) -> None:
    """Runs `recipe` until its process gets SIGTERM in the middle of the loss's call number `calls`."""
    plain, seen = Sft.loss, []

    def interrupted(self, model, batch):
        seen.append(1)
        if len(seen) == calls:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, model, batch)

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Sft, "loss", interrupted)
        run(recipe, resume=resume)


def state(folder: Path) -> tuple[str, int]:
    content = json.loads((folder / "run_state.json").read_text())
    return content["status"], content["step"]


def stir() -> None:
    """Another process would find the generators elsewhere."""
    torch.manual_seed(99)
    random.seed(98)
    np.random.seed(97)


@pytest.fixture(scope="module")
def uninterrupted(tiny_base, tiny_data, tmp_path_factory) -> Path:
    from finetune.recipefile import load_recipe

    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe = load_recipe(write_tiny_recipe(folder, tiny_base, tiny_data), LONG)
    run(recipe)
    return recipe.output_dir


@pytest.mark.slow
def test_resumed_in_another_process(tiny_recipe, tmp_path, uninterrupted, monkeypatch):
    """T1, T4: stopped inside the accumulation window of step 12 (of epoch 2), resumed with another hash seed."""
    recipe = tiny_recipe(*LONG)
    run_until(recipe, 23, monkeypatch)  # the first micro-batch of step 12
    assert state(recipe.output_dir) == ("preempted", 12)
    command = [sys.executable, "-m", "finetune.cli", "train", str(tmp_path / "tiny.yaml"), "--resume", "auto"]
    done = subprocess.run(
        [*command, *(part for item in LONG for part in ("--set", item))],
        env=os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "resuming after step 12" in done.stdout
    assert state(recipe.output_dir) == ("finished", 20)
    assert_same_bits(recipe.output_dir, uninterrupted)


def test_resumed_twice_in_one_epoch(tiny_recipe, uninterrupted, monkeypatch):
    """T2, T3: stopped after steps 9 and 14 of epoch 2; the third epoch follows in its own order."""
    recipe = tiny_recipe(*LONG)
    run_until(recipe, 17, monkeypatch)
    assert state(recipe.output_dir) == ("preempted", 9)
    stir()
    run_until(recipe, 9, monkeypatch, resume="auto")
    assert state(recipe.output_dir) == ("preempted", 14)
    stir()
    run(recipe, resume="auto")
    assert_same_bits(recipe.output_dir, uninterrupted)


def test_looking_at_the_held_out_loss_changes_nothing(tiny_recipe, uninterrupted, monkeypatch):
    """T5: looks every 2 steps, a stop within one of them, and the look is made again after it."""
    recipe = tiny_recipe(*LONG, "train.eval_steps=2")
    # A look takes one micro-batch of 2 for each of the 2 rows' pairs: 2 rows, 1 call. Steps 1, 2: 4 calls; call 5: look.
    run_until(recipe, 5, monkeypatch)
    assert state(recipe.output_dir) == ("preempted", 2)
    stir()
    run(recipe, resume="auto")
    assert_same_bits(recipe.output_dir, uninterrupted)
    lines = [json.loads(line) for line in (recipe.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_loss" in line] == list(range(2, 21, 2))


def test_worker_processes_change_nothing(tiny_recipe, uninterrupted, monkeypatch):
    """T6: rows encoded by two processes before the stop, by one after it."""
    recipe = tiny_recipe(*LONG, "data.workers=2")
    run_until(recipe, 23, monkeypatch)
    stir()
    run(tiny_recipe(*LONG, "data.workers=1", "data.cache=false"), resume="auto")
    assert_same_bits(recipe.output_dir, uninterrupted)


def test_packed_run_resumes(tiny_recipe, tiny_base, tiny_data, tmp_path_factory, monkeypatch):
    """T9: packs are the same rows in every epoch, in an order of the epoch's own."""
    from finetune.recipefile import load_recipe

    packed = (*LONG, "data.packing=true", "data.max_length=96", "train.global_batch_size=2")
    folder = tmp_path_factory.mktemp("packed")
    whole = load_recipe(write_tiny_recipe(folder, tiny_base, tiny_data), packed)
    run(whole)
    recipe = tiny_recipe(*packed)
    run_until(recipe, 9, monkeypatch)
    stir()
    run(recipe, resume="auto")
    assert_same_bits(recipe.output_dir, whole.output_dir)


@pytest.mark.slow
def test_best_and_early_stop_resume(tiny_recipe, tiny_base, tiny_data, tmp_path_factory, monkeypatch):
    """Held-out losses 5, 4, 4.5, 4.4: step 2 is kept beyond the limit and taken; patience 2 ends the run after step 4,
    also when it was stopped after step 3."""
    import finetune.train
    from finetune.recipefile import load_recipe

    def look_at(losses) -> None:
        following = iter(losses)
        monkeypatch.setattr(finetune.train, "held_out_loss", lambda *_: {"eval_loss": next(following)})

    stopping = (
        *LONG, "train.eval_steps=1", "train.early_stopping_patience=2", "train.load_best_model_at_end=true",
        "train.save_steps=1", "train.save_total_limit=1",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("stopping")
    whole = load_recipe(write_tiny_recipe(folder, tiny_base, tiny_data), stopping)
    look_at([5.0, 4.0, 4.5, 4.4])
    result = run(whole)
    assert result.manifest["training"]["steps"] == 4
    assert (result.manifest["training"]["best_step"], result.manifest["training"]["best_eval_loss"]) == (2, 4.0)
    kept = sorted(path.name for path in (whole.output_dir / "checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000004"]
    adapter = "adapter_model.safetensors"
    saved = (whole.output_dir / "checkpoints" / kept[0] / adapter).read_bytes()
    assert (whole.output_dir / "adapter" / adapter).read_bytes() == saved
    recipe = tiny_recipe(*stopping)
    look_at([5.0, 4.0, 4.5, 4.4])
    run_until(recipe, 7, monkeypatch)  # in step 4, whose look comes before the stop
    assert state(recipe.output_dir) == ("preempted", 4)
    stir()
    run(recipe, resume="auto")
    assert_same_bits(recipe.output_dir, whole.output_dir)


def test_another_recipe_does_not_resume(tiny_recipe, monkeypatch):
    """Every fact that differs is named with both values, and nothing is touched."""
    recipe = tiny_recipe(*LONG)
    run_until(recipe, 9, monkeypatch)
    before = {path: path.read_bytes() for path in recipe.output_dir.rglob("*") if path.is_file()}
    other = tiny_recipe(*LONG, "train.learning_rate=0.02", "lora.r=8", "data.max_length=900", "data.split.eval_rows=3")
    with pytest.raises(RecipeError) as error:
        run(other, resume="auto")
    lines = error.value.problems
    assert lines[0] == "train.learning_rate: the checkpoint was made with 0.01, this run has 0.02"
    assert lines[1] == "lora.r: the checkpoint was made with 4, this run has 8"
    assert lines[2].startswith("training examples: the checkpoint was made with '31 with sha256 ")
    assert len(lines) == 4
    after = {path: path.read_bytes() for path in recipe.output_dir.rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == set()


def test_resume_of_nothing_and_of_a_finished_run(tiny_recipe, uninterrupted):
    """`--resume auto` is safe to repeat: it starts a run that has not begun, and leaves a finished one as it is."""
    recipe = tiny_recipe(*LONG)
    run(recipe, resume="auto")
    assert_same_bits(recipe.output_dir, uninterrupted)
    before = (recipe.output_dir / "bundle/MANIFEST.json").stat().st_mtime_ns
    again = run(recipe, resume="auto")
    assert again.bundle == recipe.output_dir / "bundle"
    assert (recipe.output_dir / "bundle/MANIFEST.json").stat().st_mtime_ns == before
    with pytest.raises(RecipeError, match="holds the finished run of another recipe"):
        run(tiny_recipe(*LONG, "train.max_steps=21"), resume="auto")


def test_every_checkpoint_is_a_servable_adapter(uninterrupted):
    """AutoPeftModelForCausalLM and the tokenizer load from a checkpoint as it is; the last one is the adapter."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    names = sorted(path.name for path in (uninterrupted / "checkpoints").iterdir())
    assert names == ["step-00000018", "step-00000020"]
    last = uninterrupted / "checkpoints" / names[-1]
    weights = "adapter_model.safetensors"
    assert (last / weights).read_bytes() == (uninterrupted / "adapter" / weights).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(last)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "3 7?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    one, two = (AutoPeftModelForCausalLM.from_pretrained(folder) for folder in (last, uninterrupted / "adapter"))
    with torch.no_grad():
        assert torch.equal(one(**prompt).logits, two(**prompt).logits)
