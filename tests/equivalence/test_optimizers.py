"""With every optimizer a run that was stopped is the run that was not, and several processes are one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune import train
from finetune.checkpoint.tensors import load_tensors
from finetune.fullstate import full_tensors
from finetune.optimizer import OPTIMIZERS
from finetune.recipe import Recipe
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.processes import FSDP2, torchrun
from tests.equivalence.test_batches import assert_same_run, losses
from tests.equivalence.test_resume import LONG, assert_same_bits, run_until, stir
from tests.test_optimizer import ON_CPU, needs

MORE = {
    "adamw_8bit": ("train.optim_args.min_8bit_size=16",),
    "schedule_free_adamw": ("train.lr_scheduler_type=constant",),
}
RATES = ("train.learning_rate=0.003", "train.weight_decay=0.1")


def changes(optim: str) -> tuple[str, ...]:
    plus = () if OPTIMIZERS[optim].freezes_down else ("train.loraplus_lr_ratio=4.0",)
    return (f"train.optim={optim}", *RATES, *plus, *MORE.get(optim, ()))


def recipe_in(folder: Path, base: Path, data: Path, *more: str) -> Recipe:
    folder.mkdir()
    return load_recipe(write_tiny_recipe(folder, base, data), more)


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    """By the parameters' names in the peft model."""
    tensors = load_tensors(folder / "adapter_model.safetensors")
    return {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()}


def resumed_is_uninterrupted(optim: str, tmp_path: Path, base: Path, data: Path, monkeypatch, *more: str) -> Path:
    settings = (*LONG, *changes(optim), "train.eval_steps=5", *more)
    whole = recipe_in(tmp_path / "whole", base, data, *settings)
    run(whole)
    stopped = recipe_in(tmp_path / "stopped", base, data, *settings)
    run_until(stopped, 17, monkeypatch)
    stir()
    run(stopped, resume="auto")
    assert_same_bits(stopped.output_dir, whole.output_dir)
    assert losses(stopped.output_dir, "eval_loss") == losses(whole.output_dir, "eval_loss")
    return whole.output_dir


@pytest.mark.slow
@pytest.mark.parametrize("optim", [needs("schedule_free_adamw")])
def test_schedule_free_saves_and_looks_at_the_average(optim, tiny_base, tiny_data, tmp_path, monkeypatch):
    """x = y + (1 - 1 / beta1) (z - y) is in the checkpoint's adapter, in the result and under the held-out loss; a
    resumed run goes on from y, bit for bit."""
    looked_at: list[dict[str, torch.Tensor]] = []
    plain = train.held_out_loss

    def looking(model, *rest):
        looked_at.append(full_tensors(model))
        return plain(model, *rest)

    monkeypatch.setattr(train, "held_out_loss", looking)
    folder = resumed_is_uninterrupted(optim, tmp_path, tiny_base, tiny_data, monkeypatch)
    saved, state = (
        folder / "checkpoints/step-00000020",
        load_tensors(folder / "checkpoints/step-00000020/optimizer.safetensors"),
    )
    adapter = adapter_of(saved)
    for name, x in adapter.items():
        y, z = state[f"y.{name}"], state[f"z.{name}"]
        assert torch.equal(x, y.lerp(z, 1 - 1 / 0.9))
        assert not torch.equal(x, y)
        assert torch.equal(looked_at[-1][name], x)
        assert state[f"k.{name}"].item() == 20
    assert adapter_of(folder / "adapter").keys() == adapter.keys()
    assert all(torch.equal(x, adapter[name]) for name, x in adapter_of(folder / "adapter").items())


@pytest.mark.parametrize("optim", [needs("schedule_free_adamw")])
def test_saving_and_looking_change_nothing(optim, tiny_base, tiny_data, tmp_path):
    """Checkpoints and looks every 2 steps, or none: one run, bit for bit."""
    often = recipe_in(
        tmp_path / "often", tiny_base, tiny_data, *changes(optim), "train.eval_steps=2", "train.save_steps=2"
    )
    never = recipe_in(tmp_path / "never", tiny_base, tiny_data, *changes(optim), "train.save_steps=0")
    run(often)
    run(never)
    assert_same_bits(often.output_dir, never.output_dir)


@pytest.mark.slow
@pytest.mark.parametrize("optim", [needs(optim) for optim in ON_CPU if optim != "schedule_free_adamw"])
def test_resumed(optim, tiny_base, tiny_data, tmp_path, monkeypatch):
    resumed_is_uninterrupted(optim, tmp_path, tiny_base, tiny_data, monkeypatch, "train.neftune_noise_alpha=5.0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optim", "environment"),
    [
        pytest.param("adamw_torch_fused", FSDP2, id="fused-fsdp2"),
        pytest.param("muon", {}, id="muon-ddp", marks=pytest.mark.long),
        pytest.param("lora_fa", {}, id="lora_fa-ddp", marks=pytest.mark.long),
        pytest.param("lion", FSDP2, id="lion-fsdp2", marks=[*needs("lion").marks, pytest.mark.long]),
    ],
)
def test_two_processes(optim, environment, tiny_base, tiny_data, tmp_path):
    recipe = recipe_in(tmp_path / "one", tiny_base, tiny_data, *changes(optim), "train.micro_batch_size=1")
    run(recipe)
    (tmp_path / "two").mkdir()
    file = write_tiny_recipe(tmp_path / "two", tiny_base, tiny_data)
    words = [word for change in (*changes(optim), "train.micro_batch_size=1") for word in ("--set", change)]
    torchrun([ROOT / "scripts/train.py", file, *words], environment)
    assert_same_run(tmp_path / "two/run", recipe.output_dir)


@pytest.mark.slow
@pytest.mark.parametrize("optim", [needs("schedule_free_adamw")])
def test_schedule_free_goes_on_in_two_processes(optim, tiny_base, tiny_data, tmp_path, monkeypatch):
    """Stopped after step 5 in one process, taken up by two that share the model: the run of one process."""
    settings = (*changes(optim), "train.micro_batch_size=1", "train.eval_steps=3")
    whole = recipe_in(tmp_path / "one", tiny_base, tiny_data, *settings)
    run(whole)
    stopped = recipe_in(tmp_path / "two", tiny_base, tiny_data, *settings)
    run_until(stopped, 4 * 4 + 8 + 2, monkeypatch)  # 4 steps of 4 micro-batches, a look at 8 rows, into the fifth step
    words = [word for change in settings for word in ("--set", change)]
    said = torchrun([ROOT / "scripts/train.py", tmp_path / "two/tiny.yaml", "--resume", "auto", *words], FSDP2)
    assert "resuming after step 5" in said
    assert_same_run(tmp_path / "two/run", whole.output_dir)
    assert losses(tmp_path / "two/run", "eval_loss") == pytest.approx(losses(whole.output_dir, "eval_loss"), abs=1e-5)
