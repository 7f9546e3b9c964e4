"""Whole runs on the emulated device: they are the CPU's, step by step, and cost what they should."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.recipefile import load_recipe
from finetune.run import Extent, run
from tests.conftest import ROOT, byte_tokenizer, write_tiny_data, write_tiny_recipe
from tests.equivalence.processes import TORCHRUN
from tests.equivalence.test_resume import assert_same_bits
from tests.npu.processes import environment
from tests.stages.made import load_tiny

pytestmark = pytest.mark.slow

NPU = "device=npu"
SDPA = "model.attn_implementation=sdpa"  # the CPU would train with eager
WHOLE = (
    SDPA, "train.micro_batch_size=2", "train.max_grad_norm=0.4", "train.eval_steps=4", "train.save_steps=4",
    "train.gradient_checkpointing=true", "evaluate.rows=4", "evaluate.max_new_tokens=8",
)  # fmt: skip
PACKED = (
    "data.packing=true",
    "data.max_length=128",
    "train.max_steps=4",
    "train.global_batch_size=2",
    "train.micro_batch_size=1",
)
DPO = (SDPA, "train.max_steps=4", "train.micro_batch_size=2", "train.gradient_checkpointing=true")
BFLOAT16 = (
    SDPA,
    "model.dtype=bfloat16",
    "train.max_steps=6",
    "train.micro_batch_size=2",
    "train.gradient_checkpointing=true",
)
RESUMED = (
    SDPA, "train.max_steps=7", "train.micro_batch_size=2", "lora.lora_dropout=0.1", "train.save_steps=2",
    "train.gradient_checkpointing=true",
)  # fmt: skip
STEPS = (SDPA, "train.max_steps=6", "train.save_steps=0")


def losses(folder: Path, name: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def apart(one: Path, other: Path) -> float:
    """Largest difference of a loss or of a gradient's norm (all of them are between 0.1 and 10)."""
    pairs = [
        pair for name in ("loss", "grad_norm") for pair in zip(losses(one, name), losses(other, name), strict=True)
    ]
    assert len(pairs) >= 8
    return max(abs(first - second) for first, second in pairs)


class Runs:
    """Recipes of a tiny Qwen3, each in a folder of its own, written for the CPU and for the device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        tiny_qwen3(self.base)
        self.data = write_tiny_data(folder)
        self.said = ""

    def file(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if "dpo" in name:
            load_tiny(folder, self.base, "dpo")
            return folder / "dpo.yaml"
        return write_tiny_recipe(folder, self.base, self.data, name)

    def job(self, name: str, *changes: str, **more: Any) -> dict[str, Any]:
        return {"recipe": str(self.file(name)), "changes": [NPU, *changes], **more}

    def drive(self, *jobs: dict[str, Any], check: bool = True) -> subprocess.CompletedProcess[str]:
        file = self.folder / "jobs.json"
        file.write_text(json.dumps(jobs), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "tests.npu.drive", str(file)], env=environment(), cwd=ROOT, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr
        return done

    def on_cpu(self, name: str, *changes: str, whole: bool = False) -> Path:
        recipe = load_recipe(self.file(name), changes)
        run(recipe, extent=Extent(to_adapter=not whole))
        return recipe.output_dir

    def of(self, name: str) -> Path:
        return self.folder / name / "run"


def tiny_qwen3(folder: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=256,
        eos_token_id=257, pad_token_id=257,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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
    assert apart(there, here) < 2e-6
    assert min(losses(here, "grad_norm")) > 0.4  # every step is clipped
    assert losses(there, "eval_loss") == pytest.approx(losses(here, "eval_loss"), abs=2e-6)
    for name in ("answers.base.jsonl", "answers.tuned.jsonl"):
        assert (there / name).read_text() == (here / name).read_text()
    one, other = (json.loads((folder / "bundle/MANIFEST.json").read_text()) for folder in (there, here))
    assert one["scores"] == other["scores"]
    assert one["merge_proof"]["greedy_agreement"] == 1.0
    assert one["merge_proof"]["max_logit_difference"] < 1e-5
    assert one["environment"]["accelerator"] == "Ascend910B3"
    assert "verified: this is the model that was evaluated" in runs.said
    assert shape_of(there / "bundle") == shape_of(here / "bundle")
    tuned = [load_file(folder / "bundle/merged/model.safetensors") for folder in (there, here)]
    assert max(float((tuned[0][name] - tuned[1][name]).abs().max()) for name in tuned[0]) < 1e-5


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
    assert 0 < apart(runs.of("bfloat16"), here) < 5e-3


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
    """From the second step to the last: only the sums of the step are read, all at once."""
    for name in ("steps", "packed", "whole", "dpo", "bfloat16", "fused"):
        counts = json.loads((runs.of(name) / "counts.json").read_text())
        assert [step["fallbacks"] for step in counts["steps"]] == [0] * len(counts["steps"]), counts["sites"]
    counts = json.loads((runs.of("steps") / "counts.json").read_text())
    waits = [site for site in counts["sites"] if site[0] == "syncs"]
    assert [step["syncs"] for step in counts["steps"][1:]] == [1] * 5, waits
    assert {site[3].partition(":")[0] for site in waits} == {"finetune/step.py"}


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
    assert apart(two, one) < 2e-6
    for name in ("answers.base.jsonl", "answers.tuned.jsonl"):
        assert (two / name).read_text() == (one / name).read_text()
    assert shape_of(two / "bundle") == shape_of(one / "bundle")


def shape_of(bundle: Path) -> dict[str, Any]:
    """The files of a bundle, and of those with tensors the names, shapes and dtypes."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in bundle.rglob("*") if path.is_file()):
        tensors = load_file(file) if file.suffix == ".safetensors" else {}
        found[str(file.relative_to(bundle))] = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    return found
