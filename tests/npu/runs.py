"""Recipes of a tiny Qwen3 that are run on the CPU and on the emulated device, and how two runs are compared."""

from __future__ import annotations

import json
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
from tests.equivalence.test_mixture import as_mixture, preference_part, text_part
from tests.npu.processes import environment
from tests.reward_runs import reward_recipe
from tests.stages.made import load_tiny

NPU = "device=npu"
SDPA = "model.attn_implementation=sdpa"  # the CPU would train with eager
WHOLE = (
    SDPA, "train.learning_rate=0.02", "train.micro_batch_size=2", "train.max_grad_norm=0.4", "train.eval_steps=4",
    "train.save_steps=4", "train.gradient_checkpointing=true", "evaluate.rows=4", "evaluate.max_new_tokens=8",
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
        stage = name.removesuffix("-cpu")
        if stage in ("dpo", "kto"):
            load_tiny(folder, self.base, stage)
            return folder / f"{stage}.yaml"
        if stage == "reward":
            reward_recipe(folder, self.base)
            return folder / "judge.yaml"
        file = write_tiny_recipe(folder, self.base, self.data, name)
        return as_mixture(file, text_part(folder), preference_part(folder)) if stage == "mixture" else file

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
        run(recipe, extent=Extent(until="bundle" if whole else "adapter"))
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


def assert_same_bundle(one: Path, other: Path) -> None:
    """The same files, weights and golden answers, up to rounding."""
    assert shape_of(one) == shape_of(other)
    weights = [load_file(bundle / "model.safetensors") for bundle in (one, other)]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-5
    for file in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    golden = [
        [json.loads(line) for line in (bundle / "golden.jsonl").read_text().splitlines()] for bundle in (one, other)
    ]
    assert [row["answer_ids"] for row in golden[0]] == [row["answer_ids"] for row in golden[1]]
    assert {row["answer"] for row in golden[0]} != {""}
    for mine, its in zip(*golden, strict=True):
        assert mine["logprobs"] == pytest.approx(its["logprobs"], abs=1e-4)


def shape_of(bundle: Path) -> dict[str, Any]:
    """The files of a bundle, and of those with tensors the names, shapes and dtypes."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in bundle.rglob("*") if path.is_file()):
        tensors = load_file(file) if file.suffix == ".safetensors" else {}
        found[str(file.relative_to(bundle))] = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    return found
