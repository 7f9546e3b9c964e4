"""Whole runs on the emulated device: they are the CPU's, step by step, and cost what they should."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.conftest import ROOT
from tests.equivalence.processes import TORCHRUN
from tests.equivalence.test_resume import assert_same_bits
from tests.npu.processes import NEEDS_TORCH, environment
from tests.npu.runs import (
    BFLOAT16,
    DPO,
    NPU,
    PACKED,
    RESUMED,
    SDPA,
    STEPS,
    WHOLE,
    Runs,
    apart,
    assert_same_bundle,
    losses,
)

pytestmark = [pytest.mark.slow, NEEDS_TORCH]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    """All that is trained on the device in one process, and in a second one what goes on after a kill."""
    runs = Runs(tmp_path_factory.mktemp("npu"))
    half, fused = "model.dtype=bfloat16", "train.optim=adamw_torch_npu_fused"
    killed = runs.drive(
        runs.job("whole", *WHOLE, whole=True),
        runs.job("dpo", *DPO),
        runs.job("packed", SDPA, *PACKED),
        runs.job("fused", "model.attn_implementation=npu_fusion_attention", *PACKED),
        runs.job("bfloat16", half, *BFLOAT16),
        runs.job("steps", *STEPS),
        runs.job("kto", *STEPS, "train.max_steps=2"),
        runs.job("reward", *STEPS, "train.max_steps=2"),
        runs.job("mixture", *STEPS, "train.max_steps=2", "train.global_batch_size=6", "evaluate.rows=3"),
        runs.job("offloaded", *STEPS, "train.max_steps=2", "train.activation_offloading=true"),
        runs.job("optimizer", fused, *STEPS),
        runs.job("stopped", fused, *STEPS, "train.save_steps=2", stop=4),
        runs.job("stopped", fused, *STEPS, "train.save_steps=2", resume="auto"),
        runs.job("first", "model.dtype=auto", *STEPS, "train.max_steps=2", soc="Ascend910A"),
        runs.job("refused", half, *STEPS, soc="Ascend910A", refused="Ascend910A does not compute in it; use float32"),
        runs.job("uninterrupted", *RESUMED),
        runs.job("killed", *RESUMED, kill=6),
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout[-2000:] + killed.stderr
    done = runs.drive(
        runs.job("killed", *RESUMED, resume="auto"), {"cli": ["verify", str(runs.of("whole") / "bundle")]}
    )
    runs.said = killed.stdout + done.stdout
    return runs


def test_sft_is_the_cpus_to_the_bundle(runs):
    """Accumulation, clipping, gradient checkpointing, looks, checkpoints; then answers, scores, merge, proof and bundle."""
    there, here = runs.of("whole"), runs.on_cpu("whole-cpu", *WHOLE, whole=True)
    assert apart(there, here) < 5e-6
    assert min(losses(here, "grad_norm")) > 0.4  # every step is clipped
    assert losses(there, "eval_loss") == pytest.approx(losses(here, "eval_loss"), abs=5e-6)
    for name in ("answers.base.jsonl", "answers.tuned.jsonl"):
        assert (there / name).read_text() == (here / name).read_text()
    one, other = (json.loads((folder / "bundle/MANIFEST.json").read_text()) for folder in (there, here))
    assert one["scores"] == other["scores"]
    assert one["merge_proof"]["greedy_agreement"] == 1.0
    assert one["merge_proof"]["max_logit_difference"] < 1e-5
    assert one["environment"]["accelerator"] == "Ascend910B3"
    assert "verified: this is the model that was evaluated" in runs.said
    assert_same_bundle(there / "bundle", here / "bundle")


def test_dpo_is_the_cpus(runs):
    here = runs.on_cpu("dpo-cpu", *DPO)
    assert apart(runs.of("dpo"), here) < 1e-6
    assert losses(runs.of("dpo"), "rewards/margins") == pytest.approx(losses(here, "rewards/margins"), abs=1e-6)


def test_packed_rows_are_the_cpus(runs):
    """With sdpa's masks, and with npu_fusion_attention, which has the documents' bounds instead."""
    here = runs.on_cpu("packed-cpu", SDPA, *PACKED)
    assert apart(runs.of("packed"), here) < 2e-6
    assert apart(runs.of("fused"), here) < 2e-6


def test_bfloat16_is_the_cpus_within_its_precision(runs):
    here = runs.on_cpu("bfloat16-cpu", "model.dtype=bfloat16", *BFLOAT16)
    assert 0 < apart(runs.of("bfloat16"), here) < 2e-2


def test_fused_adamw_is_adamw(runs):
    """torch_npu's optimizer on one vector of all weights; its state comes back from a checkpoint."""
    assert apart(runs.of("optimizer"), runs.of("steps")) < 2e-6
    assert_same_bits(runs.of("stopped"), runs.of("optimizer"))


def test_a_card_without_bfloat16(runs):
    """Ascend910A: `dtype: auto` is float32 there, and a recipe that asks for bfloat16 is refused."""
    assert "first: npu, float32" in runs.said
    assert losses(runs.of("first")) == losses(runs.of("steps"))[:2]


def test_killed_and_resumed_is_uninterrupted(runs):
    """SIGKILL in step 6, with dropout and gradient checkpointing: a step seeds the device's generator as well."""
    assert "resuming after step" in runs.said
    assert_same_bits(runs.of("killed"), runs.of("uninterrupted"))


def test_a_step_waits_once_and_falls_back_never(runs):
    """In every stage and setting that was run here: the step's sums and its gradient norm are read, all at once."""
    names = (
        "steps",
        "dpo",
        "packed",
        "fused",
        "bfloat16",
        "optimizer",
        "first",
        "kto",
        "reward",
        "mixture",
        "offloaded",
    )
    for name in names:
        counts = json.loads((runs.of(name) / "counts.json").read_text())
        waits = [site for site in counts["sites"] if site[0] != "uploads"]
        assert [(step["syncs"], step["fallbacks"]) for step in counts["steps"]] == [(1, 0)] * len(counts["steps"]), (
            waits
        )
        assert {site[3].partition(":")[0] for site in waits} == {"finetune/step.py"}
    counts = json.loads((runs.of("whole") / "counts.json").read_text())  # with looks and checkpoints
    assert [step["fallbacks"] for step in counts["steps"]] == [0] * 9


def test_two_processes_are_one(runs):
    """DDP over `hccl`, two devices: losses, answers and proof are those of one process."""
    file = runs.file("two")
    changes = [word for change in (NPU, *WHOLE, "train.micro_batch_size=1") for word in ("--set", change)]
    done = subprocess.run(
        [*TORCHRUN, str(ROOT / "scripts/train.py"), str(file), *changes], env=environment(), capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "npu, float32, 2 process(es), ddp" in done.stdout
    one, two = runs.of("whole"), runs.of("two")
    assert apart(two, one) < 5e-6
    for name in ("answers.base.jsonl", "answers.tuned.jsonl"):
        assert (two / name).read_text() == (one / name).read_text()
    assert_same_bundle(two / "bundle", one / "bundle")
