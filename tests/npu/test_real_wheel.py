"""Our program on the real torch_npu wheel, on a CANN runtime of host memory, and on the wheel without CANN.

torch_npu's own dispatcher, allocator, autocast, patches and accelerate's NPU branch run; what its kernels would compute is
computed by the CPU, so numbers are the CPU's. No card is needed and none is proved by it.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, byte_tokenizer, write_tiny_recipe
from tests.equivalence.processes import FSDP2, TORCHRUN
from tests.equivalence.test_batches import assert_same_run
from tests.npu.cann.process import environment, python

pytestmark = pytest.mark.slow
TRAIN = ROOT / "scripts/train.py"
SHORT = ("train.max_steps=1", "evaluate.rows=1", "evaluate.max_new_tokens=2", "export.parity_rows=1")


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory) -> Path:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("qwen3")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=256,
        eos_token_id=257, pad_token_id=257,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def on_cpu(qwen3, tiny_data, tmp_path_factory) -> Path:
    recipe = load_recipe(write_tiny_recipe(tmp_path_factory.mktemp("cpu"), qwen3, tiny_data))
    run(recipe)
    return recipe.output_dir


def words(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "bundle/MANIFEST.json").read_text(encoding="utf-8"))


def assert_as_on_cpu(folder: Path, on_cpu: Path) -> None:
    """Losses, adapter, answers, scores and the merge's proof."""
    assert_same_run(folder, on_cpu)
    for name in ("answers.base.jsonl", "answers.tuned.jsonl"):
        assert (folder / name).read_text() == (on_cpu / name).read_text()
    assert manifest(folder)["scores"] == manifest(on_cpu)["scores"]
    assert manifest(folder)["merge_proof"]["greedy_agreement"] == 1.0


def test_one_npu_trains_as_the_cpu(qwen3, tiny_data, tmp_path, on_cpu):
    """From data to bundle on what `auto` takes of an Ascend910A: float32, as it has no bfloat16. Attention is torch_npu's
    operator, through transformers, on rows without padding (layout TND). Every operator has a kernel of torch_npu."""
    file = write_tiny_recipe(tmp_path, qwen3, tiny_data)
    attention = ("model.attn_implementation=npu_fusion_attention", "data.padding_free=true")
    chip = environment(FAKE_NPU_SOC="Ascend910A", TORCH_NPU_FALLBACK_CPU_DISABLE="1")
    done = python([TRAIN, file, *words("device=auto", "model.dtype=auto", *attention)], chip)
    assert done.returncode == 0, done.stderr
    assert "tiny: npu, float32, 1 process(es), single\n" in done.stdout
    assert_as_on_cpu(tmp_path / "run", on_cpu)
    assert manifest(tmp_path / "run")["environment"]["accelerator"] == "Ascend910A"


def test_fsdp2_on_two_npus_trains_as_the_cpu(qwen3, tiny_data, tmp_path, on_cpu):
    """Two processes, npu:0 and npu:1, hccl (on gloo): the base and the adapter in two parts."""
    file = write_tiny_recipe(tmp_path, qwen3, tiny_data)
    launched = environment(TORCH_NPU_FALLBACK_CPU_DISABLE="1", **FSDP2)
    done = python([*TORCHRUN[1:], TRAIN, file, *words("device=npu", "train.micro_batch_size=1")], launched)
    assert done.returncode == 0, done.stderr
    assert "tiny: npu, float32, 2 process(es), fsdp2\n" in done.stdout
    assert_as_on_cpu(tmp_path / "run", on_cpu)


NO_CANN = "warning: torch_npu is installed but can't be loaded (cann_missing): libhccl.so is part of CANN"
# Name, arguments of finetune after the recipe's changes, what is there, exit code, what is said on either stream
STATES = {
    "help": (["--help"], {"cann": False}, 0, "usage: finetune"),
    "check": (["check", "device=npu"], {"cann": False}, 0, "right; 31 samples to train on"),
    "cpu": (["train", "device=cpu", *SHORT], {"cann": False}, 0, NO_CANN),
    "auto": (["train", "device=auto", *SHORT], {"cann": False}, 0, NO_CANN),
    "npu": (["train", "device=npu"], {"cann": False}, 2, "set_env.sh"),
    "no device": (["train", "device=npu"], {"FAKE_NPU_COUNT": "0"}, 2, "finds no NPU"),
    "unknown chip": (
        ["train", "device=npu"],
        {"FAKE_NPU_SOC": "Ascend999"},
        2,
        "does not know the processor Ascend999",
    ),
    "no kernels": (
        ["train", "device=npu"],
        {"kernels": False},
        2,
        "install the CANN kernels (ops) package of this SoC",
    ),
}


def test_half_installed(qwen3, tiny_data, tmp_path):
    """The wheel without CANN, without a device, on a chip it does not know, without kernels: no traceback, and the run on
    the CPU goes on where there is no reason why it should not."""

    def start(name: str):
        command, there, *_ = STATES[name]
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        arguments = [command[0]]
        if command[0] != "--help":
            arguments += [str(write_tiny_recipe(folder, qwen3, tiny_data)), *words(*command[1:])]
        program = f"from finetune.cli import program; program({arguments!r})"
        return python(["-c", program], environment(**there))

    with ThreadPoolExecutor(2) as pool:
        ended = dict(zip(STATES, pool.map(start, STATES), strict=True))
    for name, (_, _, code, said) in STATES.items():
        done = ended[name]
        assert "Traceback" not in done.stdout + done.stderr, f"{name}: {done.stderr}"
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), (
            f"{name}: {done.stdout}{done.stderr}"
        )
