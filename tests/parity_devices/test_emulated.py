"""`finetune parity --devices cpu,npu` on the emulated device."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from finetune.cli import main
from finetune.device import DEVICES
from finetune.parity import command, run
from finetune.parity.judge import judge, read_run
from tests.conftest import write_tiny_recipe
from tests.npu.processes import environment

pytestmark = pytest.mark.slow

launch = command.launch
STEPS = 4


def reports(folder: Path, patch: pytest.MonkeyPatch, dtype: str, module: str) -> tuple[int, dict]:
    """A command's exit code and its report. The CPU's runs are made in this process, to save its start."""

    def launched(folders, log):
        if folders[0].name == "cpu":
            log.touch()
            return run.main([str(run_folder) for run_folder in folders])
        return launch([*folders, *folder.glob("wrong")], log, module)

    patch.setattr(command, "launch", launched)
    options = ["--devices", "cpu,npu", "--steps", str(STEPS), "--output", str(folder / dtype), "--dtype", dtype]
    code = main(["parity", str(folder / "tiny.yaml"), *options])
    return code, json.loads((folder / dtype / "parity.json").read_text())


@pytest.fixture(scope="module")
def told(tiny_base, tiny_data, tmp_path_factory):
    """The folder, and by dtype the exit code and the report. Beside bfloat16 a float32 run with a wrong kernel."""
    folder = tmp_path_factory.mktemp("parity")
    write_tiny_recipe(folder, tiny_base, tiny_data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEVICES, "npu", replace(DEVICES["npu"], why_not=lambda: "", bfloat16=lambda: True))
        for name, value in environment().items():
            patch.setenv(name, value)
        found = {"float32": reports(folder, patch, "float32", "finetune.parity.run")}
        wrong = folder / "wrong"
        wrong.mkdir()
        recipe = yaml.safe_load((folder / "float32/npu/recipe.yaml").read_text())
        (wrong / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"output_dir": str(wrong / "run")}))
        found["bfloat16"] = reports(folder, patch, "bfloat16", "tests.parity_devices.wrong")
    return folder, found


def test_float32_is_equal(told):
    _folder, found = told
    code, report = found["float32"]
    verdict = report["verdicts"]["npu"]
    assert (code, verdict["verdict"], len(verdict["losses"])) == (0, "equal", STEPS)
    assert report["runs"]["npu"]["facts"]["chip"] == "Ascend910B3"
    assert max(one["gap"]["max_abs"] for one in verdict["losses"]) < 2e-6
    assert max(one["gap"]["relative"] for one in verdict["modules"]) < 2e-6
    assert max(one["gap"]["relative"] for one in verdict["gradients"]) < 1e-5
    assert verdict["logits_end"]["device"]["max_abs"] < 1e-5 and verdict["logits_end"]["device"]["greedy"] == 0


def test_bfloat16_is_within_its_own_error(told):
    """The device rounds elsewhere than the CPU (another attention), and by no more than bfloat16 does to the CPU itself."""
    _folder, found = told
    code, report = found["bfloat16"]
    verdict = report["verdicts"]["npu"]
    assert (code, verdict["verdict"]) == (0, "within the dtype's own error")
    assert list(report["runs"]) == ["cpu", "cpu.float32", "npu"]
    last = verdict["modules"][-1]
    assert last["name"] == "lm_head" and 1e-4 < last["gap"]["relative"] < 2 * last["own"]["relative"]
    assert 0 < max(one["gap"]["max_abs"] for one in verdict["losses"]) < 5e-3


def test_a_wrong_kernel_of_the_device_is_named(told):
    """SwiGLU is one op there, so that the activation is no module of its own: down_proj is the first to see what is wrong."""
    folder, _found = told
    wrong = read_run("wrong", folder / "wrong", 0, STEPS, "")
    verdict = judge(wrong, read_run("cpu", folder / "float32/cpu", 0, STEPS, ""), None)
    assert wrong.died == "" and wrong.facts["fused_ops"]["swiglu"] == 2
    assert (verdict.at, verdict.unseen) == ("model.layers.0.mlp.down_proj", ("model.layers.0.mlp.act_fn",))
    over = {one.name for one in verdict.modules if one.over > 1}
    assert "model.layers.0.mlp.gate_proj" not in over and "model.layers.0.mlp.up_proj" not in over


def test_the_folders_can_be_thrown_away(told):
    """Nothing outside of the report's folder was written."""
    folder, _found = told
    shutil.rmtree(folder / "wrong")
    assert {path.name for path in folder.iterdir()} == {"tiny.yaml", "float32", "bfloat16"}
