"""Our program on the real torch_npu wheel, on a CANN runtime of host memory, and on the wheel without CANN.

torch_npu's own dispatcher, allocator, autocast, patches and accelerate's NPU branch run; what its kernels would compute is
computed by the CPU, so numbers are the CPU's. No card is needed and none is proved by it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.processes import FSDP2, TORCHRUN
from tests.equivalence.test_batches import assert_same_run
from tests.npu.cann.process import environment, python
from tests.npu.runs import tiny_qwen3

pytestmark = pytest.mark.slow
TRAIN = ROOT / "scripts/train.py"
SHORT = ("train.max_steps=1", "evaluate.rows=1", "evaluate.max_new_tokens=2", "export.parity_rows=1")


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3")
    tiny_qwen3(folder)
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
    operator, through transformers, on rows without padding (layout TND); norms, SwiGLU, rotary embedding and the optimizer
    are its fused ones. Every operator has a kernel of torch_npu."""
    file = write_tiny_recipe(tmp_path, qwen3, tiny_data)
    fused = (
        "model.attn_implementation=npu_fusion_attention",
        "data.padding_free=true",
        "train.optim=adamw_torch_npu_fused",
    )
    chip = environment(FAKE_NPU_SOC="Ascend910A", TORCH_NPU_FALLBACK_CPU_DISABLE="1")
    done = python([TRAIN, file, *words("device=auto", "model.dtype=auto", *fused)], chip)
    assert done.returncode == 0, done.stderr
    assert "tiny: npu, float32, 1 process(es), single\n" in done.stdout
    assert "fused ops: rms_norm x9 (differs by 0.0e+00), swiglu x2" in done.stdout
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
# What is there; commands of finetune, one after the other in a process: exit code and what is said on either stream.
STATES = {
    "no CANN": (
        {"cann": False},
        [
            (["doctor"], 2, "libhccl.so: cannot open shared object file: No such file or directory [cann_missing]"),
            (["train", "device=auto", *SHORT], 0, NO_CANN),
            (["train", "device=cpu", *SHORT], 0, "tiny: cpu, float32, 1 process(es), single\n"),
            (["train", "device=npu"], 2, "run `source /usr/local/Ascend/ascend-toolkit/set_env.sh`"),
            (["check", "device=npu"], 0, "right; 31 samples to train on"),
            (["--help"], 0, "usage: finetune"),
        ],
    ),
    "no device": ({"FAKE_NPU_COUNT": "0"}, [(["train", "device=npu"], 2, "finds no NPU")]),
    "unknown chip": (
        {"FAKE_NPU_SOC": "Ascend999"},
        [(["train", "device=npu"], 2, "this torch_npu does not know the processor Ascend999")],
    ),
    "no kernels": (
        {"kernels": False, "PYTORCH_ALLOC_CONF": "max_split_size_mb:128"},
        [(["train", "device=npu"], 2, "install the CANN kernels (ops) package of this SoC")],
    ),
}  # fmt: skip
PROGRAM = """
import json, sys
from finetune.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    print(f"<{code}>", flush=True)
    print("<>", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("state", STATES)
def test_half_installed(state, qwen3, tiny_data, tmp_path):
    """The wheel without CANN, without a device, on a chip it does not know, without kernels (the user's own allocator
    settings are no stumbling block): never a traceback, and on the CPU the run goes on."""
    there, commands = STATES[state]
    started = []
    for number, (command, _, _) in enumerate(commands):
        folder = tmp_path / str(number)
        folder.mkdir()
        changed = [str(write_tiny_recipe(folder, qwen3, tiny_data)), *words(*command[1:])]
        started.append([command[0], *(changed if command[0] in ("train", "check") else [])])
    done = python(["-c", PROGRAM, json.dumps(started)], environment(**there))
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert [int(code) for code in re.findall(r"^<(\d+)>$", done.stdout, re.MULTILINE)] == [
        code for _, code, _ in commands
    ]
    said = [out + error for out, error in zip(re.split(r"<\d+>", done.stdout), done.stderr.split("<>"), strict=True)]
    assert [part for part, (_, _, text) in zip(said, commands, strict=False) if text not in part] == []
