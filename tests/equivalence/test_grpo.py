"""Two processes draw and train on the answers that one does; distillation with a teacher in each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.processes import FSDP2, torchrun
from tests.equivalence.test_batches import assert_same_run, losses

pytestmark = pytest.mark.slow

SETTINGS = [
    "stage=grpo", "train.global_batch_size=8", "train.max_steps=3", "grpo.rewards={field_match: 1.0, finished: 0.5}",
    "grpo.num_generations=4", "grpo.max_completion_length=12", "grpo.num_iterations=2", "grpo.beta=0.05",
    "evaluate.rows=2", "train.micro_batch_size=2", "train.eval_steps=2",
]  # fmt: skip


def folder(place: Path) -> Path:
    place.mkdir()
    return place


def arguments(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def test_two_processes(tiny_base, tiny_data, tmp_path):
    one = load_recipe(write_tiny_recipe(folder(tmp_path / "one"), tiny_base, tiny_data), SETTINGS)
    run(one)
    file = write_tiny_recipe(folder(tmp_path / "two"), tiny_base, tiny_data)
    assert "2 process(es)" in torchrun([ROOT / "scripts/train.py", file, *arguments(SETTINGS)])
    assert_same_run(tmp_path / "two/run", one.output_dir)
    rewards = losses(one.output_dir, "reward")
    assert losses(tmp_path / "two/run", "reward") == rewards and max(rewards) > 0
    looks = losses(one.output_dir, "eval_reward")
    assert len(looks) == 2 and losses(tmp_path / "two/run", "eval_reward") == looks


def test_two_processes_distill(tiny_base, tiny_data, tmp_path, finished_run):
    """Sharded by FSDP2: the teacher is whole in each process."""
    teacher = {"name_or_path": str(tiny_base), "adapter_name_or_path": str(finished_run[0].output_dir / "adapter")}
    settings = ["stage=distill", f"distill={json.dumps({'teacher': teacher, 'alpha': 0.3})}", "train.max_steps=4"]
    one = load_recipe(write_tiny_recipe(folder(tmp_path / "one"), tiny_base, tiny_data), settings)
    run(one)
    file = write_tiny_recipe(folder(tmp_path / "two"), tiny_base, tiny_data)
    torchrun([ROOT / "scripts/train.py", file, *arguments(settings)], FSDP2)
    assert_same_run(tmp_path / "two/run", one.output_dir)
