"""`finetune parity` on the CPU against itself: the same, with a kernel that is wrong, and with a run that dies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from finetune import train
from finetune.cli import main
from finetune.device import DEVICES
from finetune.device.npu import NPU
from finetune.errors import RecipeError
from finetune.parity import command, run
from finetune.parity.judge import read_run
from finetune.parity.mini import first_stage, mini_recipe, shared_settings
from finetune.recipefile import load_recipe
from tests.conftest import ROOT, write_tiny_recipe

CPU = DEVICES["cpu"]
ACT = "model.layers.0.mlp.act_fn"


def wrong_silu(value: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """By one part in five hundred, as of a table that is too coarse."""
    return value * torch.sigmoid(value) * 1.002


def here(folders, log: Path, module: str = "") -> int:
    """Stands for `launch`: this process. The third run computes another silu, the fourth finds no kernel in its second step."""
    log.write_text("")
    name = folders[0].name
    with pytest.MonkeyPatch.context() as patch:
        if name == "cpu-3":
            patch.setattr(F, "silu", wrong_silu)
        if name == "cpu-4":
            plain, taken = train.take_step, []

            def dying(*args):
                taken.append(1)
                if len(taken) == 2:
                    raise NotImplementedError("Could not run 'aten::silu' with arguments from the 'CPU' backend.\nmore")
                return plain(*args)

            patch.setattr(train, "take_step", dying)
        return run.main([str(folder) for folder in folders])


@pytest.fixture(scope="module")
def four(tiny_base, tiny_data, tmp_path_factory):
    """One command: the folder, its exit code, what it said."""
    folder = tmp_path_factory.mktemp("parity")
    recipe = write_tiny_recipe(folder, tiny_base, tiny_data)
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as said:
        lines: list[str] = []
        patch.setattr(command, "launch", here)
        said.setattr(command, "_say", lambda *more: lines.extend(more))
        options = ["--devices", "cpu,cpu,cpu,cpu", "--steps", "3", "--set", "lora.lora_dropout=0.5"]
        code = main(["parity", str(recipe), *options])
    return folder / "run.parity", code, lines, json.loads((folder / "run.parity/parity.json").read_text())


def test_the_same_device_twice_is_equal_to_the_bit(four):
    """Also with the recipe's dropout, which is left out: two draws would differ."""
    _folder, _code, _lines, told = four
    runs, verdict = told["runs"], told["verdicts"]["cpu-2"]
    assert runs["cpu"]["steps"] == runs["cpu-2"]["steps"] and len(runs["cpu"]["steps"]) == 3
    assert float.fromhex(runs["cpu"]["steps"][0]["loss_hex"]) == runs["cpu"]["steps"][0]["loss"]
    assert (verdict["verdict"], verdict["at"]) == ("equal", None)
    for part in ("modules", "gradients", "losses"):
        assert {one["gap"]["max_abs"] for one in verdict[part]} == {0.0}
    assert verdict["logits_end"]["device"]["max_abs"] == 0 and verdict["logits_end"]["own"] is None


def test_modules_in_the_order_of_computation_and_gradients_backwards(four):
    verdict = four[3]["verdicts"]["cpu-2"]
    names = [one["name"] for one in verdict["modules"]]
    assert names[0] == "model.embed_tokens" and names[-2:] == ["model.norm", "lm_head"]
    layer = [name.removeprefix("model.layers.0") for name in names if name.startswith("model.layers.0")]
    assert layer == [
        ".input_layernorm", ".self_attn.q_proj", ".self_attn.k_proj", ".self_attn.v_proj", ".self_attn.o_proj", ".self_attn",
        ".post_attention_layernorm", ".mlp.gate_proj", ".mlp.act_fn", ".mlp.up_proj", ".mlp.down_proj", ".mlp", "",
    ]  # fmt: skip
    gradients = [one["name"] for one in verdict["gradients"]]
    assert gradients[0].startswith("gradient of model.layers.1.mlp.down_proj.lora_")
    assert len(gradients) == 28 and "layers.0" in gradients[-1]


def test_a_wrong_kernel_is_named_and_ends_with_exit_code_3(four, capsys):
    folder, code, lines, told = four
    assert code == 3
    assert told["verdicts"]["cpu-3"]["verdict"] == "diverges" and told["verdicts"]["cpu-3"]["at"] == ACT
    assert f"**cpu-3: diverges at {ACT}.**" in (folder / "parity.md").read_text()
    assert any(line.startswith("cpu-3") and line.endswith(f"diverges at {ACT}") for line in lines)


def test_a_run_that_dies_is_told_with_its_last_step_and_its_own_words(four):
    _folder, _code, _lines, told = four
    died = told["runs"]["cpu-4"]["died"]
    words = "NotImplementedError: Could not run 'aten::silu' with arguments from the 'CPU' backend."
    assert died == f"after step 1 of 3 (exit code 1): {words}"
    assert "cpu-4" not in told["verdicts"] and len(told["runs"]["cpu-4"]["steps"]) == 1


def test_a_process_that_is_killed_is_told(tmp_path):
    """Its last line of events, and the last lines of its log; a line that was cut is not read."""
    (tmp_path / run.EVENTS).write_text('{"at": "base"}\n{"at": "the first forward and backward pass"}\n{"at": "tr')
    told = read_run("npu", tmp_path, -11, 8, "one\n\nFatal Python error: Segmentation fault\n")
    assert told.died == (
        "in: the first forward and backward pass (signal 11): one / Fatal Python error: Segmentation fault"
    )


def test_what_devices_share(tiny_recipe):
    """The smaller micro-batch; the dtype that the device under test takes; an optimizer that all of them have."""
    npu = DEVICES["npu"].__class__(**{**vars(NPU), "bfloat16": lambda: True})
    shared, notes = shared_settings(tiny_recipe("train.global_batch_size=16", "model.dtype=auto"), [CPU, npu], 8, None)
    assert (shared.micro_batch, shared.dtype, notes) == (8, "bfloat16", [])
    shared, notes = shared_settings(tiny_recipe("train.optim=adamw_8bit"), [CPU, npu], 8, None)
    assert (shared.optim, shared.dtype) == ("adamw_torch", "float32")
    assert notes == ["train.optim: adamw_8bit is not for npu: adamw_torch on every device"]


def test_what_a_device_has_of_its_own(tiny_recipe, tmp_path):
    """The CPU stands in with what it has: plain AdamW, its own attention."""
    recipe = tiny_recipe(
        "device=npu", "train.optim=adamw_torch_npu_fused", "model.attn_implementation=npu_fusion_attention",
        "train.warmup_steps=5", "train.eval_steps=2", "train.save_steps=3", "train.neftune_noise_alpha=5",
    )  # fmt: skip
    shared, notes = shared_settings(recipe, [CPU, NPU], 2, "float32")
    assert notes == []
    on_npu, notes = mini_recipe(recipe, NPU, shared, "float32", tmp_path)
    assert notes == []
    on_cpu, notes = mini_recipe(recipe, CPU, shared, "float32", tmp_path)
    assert notes == [
        "model.attn_implementation: npu_fusion_attention is not for cpu: auto there",
        "train.optim: adamw_torch_npu_fused is not for cpu: adamw_torch there, the same in other code",
    ]
    assert on_npu.train.model_copy(update={"optim": "adamw_torch"}) == on_cpu.train
    assert (on_cpu.train.max_steps, on_cpu.train.warmup_steps, on_cpu.train.save_steps) == (2, 1, 0)
    assert on_cpu.train.neftune_noise_alpha is None and on_cpu.data == on_npu.data


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--devices", "cpu,gpu"), "--devices: 'gpu' is not a device"),
        (("--devices", "cpu,npu"), "--devices: npu is not to be had on this machine: torch_npu is not installed"),
        (("--devices", "cpu"), "--devices: two are needed to compare, here: cpu"),
        (("--devices", "cpu,cpu", "--output", "{folder}"), "already exists and holds no parity.json"),
        (("--devices", "cpu,cpu", "--set", "model.name_or_path=./no-such"), "no such folder"),
    ],
)
def test_mistakes(options, problem, tiny_base, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "launch", here)
    recipe = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    assert main(["parity", str(recipe), *(option.format(folder=tmp_path) for option in options)]) == 2
    assert problem in capsys.readouterr().err


def test_what_of_a_chain_is_compared():
    """Its first stage; a stage whose answers are sampled can't be the same on two devices."""
    recipe = load_recipe(ROOT / "recipes/meteorology/metar_grpo.yaml")
    first, notes = first_stage(recipe)
    assert (first, first.stage) == (recipe.stages[0], "sft")
    assert notes == [f"of the chain only its first stage, {first.name}: the others begin with what it trained"]
    with pytest.raises(RecipeError, match="stage: grpo: the model samples its own answers"):
        first_stage(recipe.stages[1])
