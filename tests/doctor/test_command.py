"""The command: its report to the letter, exit codes, JSON, a recipe against the machine; and that it never imports torch."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune import __version__, cli
from finetune.device.machine import Answer, Machine
from finetune.doctor.command import examine, show
from finetune.doctor.finding import Finding, error, ok, warning
from finetune.errors import RecipeError
from tests.conftest import ROOT
from tests.doctor.recorded_machine import Recorded, ask, child, lines, npu_works, with_npus

RECIPE = ROOT / "recipes/meteorology/metar_decode.yaml"
SUBJECTS = [
    "CPU", "memory", "disk: here", "disk: hub cache", "disk: temporary", "disk: /dev/shm", "Python", "torch", "transformers",
    "peft", "optional libraries", "import torch", "CUDA", "Ascend", "environment",
]  # fmt: skip


def test_the_report_to_the_letter(capsys):
    assert ask(Recorded()) == 0
    assert (
        capsys.readouterr().out
        == """\
ok       CPU                 Intel(R) Xeon(R) Platinum 8480+: 4 cores (8 logical), bfloat16 by AMX and AVX512-BF16
ok       memory              62.0 GiB, 50.0 GiB free
ok       disk: here          /runs: 200.0 GiB free
ok       disk: hub cache     /home/user/.cache/huggingface/hub: 200.0 GiB free
ok       disk: temporary     /tmp: 100.0 GiB free
ok       disk: /dev/shm      /dev/shm: 32.0 GiB free
ok       Python              3.11.7 (needed: >=3.11)
ok       torch               2.12.0 (needed: >=2.10; tested: 2.13.0)
ok       transformers        5.23.0 (needed: >=5.17,<6; tested: 5.23.0)
ok       peft                0.21.2 (needed: >=0.20,<0.22; tested: 0.21.2)
ok       optional libraries  datasets 5.2.0
ok       import torch        2.12.0 imports
ok       CUDA                no NVIDIA driver here
ok       Ascend              no device, driver, CANN or torch-npu here
ok       environment         no variable that matters is set
0 error(s), 0 warning(s), 15 ok
"""
    )


FINDINGS = [ok("a", "right"), warning("longer", "so so", "mend it"), error("c", "wrong " * 40 + "[bold]", "do that")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("plain", [True, False])
def test_on_a_terminal_it_is_coloured_unless_told_not_to(plain, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    show(FINDINGS, out)
    assert ("\x1b[32m" in out.getvalue()) is not plain  # green
    if plain:
        text = [line.rstrip() for line in out.getvalue().replace("\x1b[2m", "").replace("\x1b[0m", "").splitlines()]
        text = [line.replace("\x1b[1m", "") for line in text]
        assert text[:3] == ["ok      a      right", "warning longer so so", "               do: mend it"]
        assert all(len(line) <= 80 for line in text)


def test_in_a_pipe_a_finding_is_one_line():
    out = io.StringIO()
    show(FINDINGS, out)
    assert out.getvalue().splitlines() == [
        "ok       a       right",
        "warning  longer  so so",
        "                 do: mend it",
        "error    c       " + "wrong " * 40 + "[bold]",
        "                 do: do that",
        "1 error(s), 1 warning(s), 1 ok",
    ]


def test_json_to_a_file_beside_the_report(tmp_path, capsys):
    target = tmp_path / "doctor.json"
    machine = Recorded(env={"TASK_QUEUE_ENABLE": "0"})
    assert ask(machine, json_file=str(target)) == 0
    told = json.loads(target.read_text())
    assert told["finetune"] == __version__
    assert told["counts"] == {"ok": 14, "warning": 1, "error": 0}
    assert [finding["subject"] for finding in told["findings"]] == [*SUBJECTS[:-1], "TASK_QUEUE_ENABLE"]
    assert told["findings"][-1] == {
        "subject": "TASK_QUEUE_ENABLE", "status": "warning",
        "what": "0: queue of operators to the NPU (2 is fastest and takes more memory)",
        "remedy": "the queue is off, which is slow: 1 or 2",
    }  # fmt: skip
    assert capsys.readouterr().out.endswith("0 error(s), 1 warning(s), 14 ok\n")


def test_json_alone(capsys):
    assert ask(with_npus(probe=Answer(-11)), json_file="-") == 2
    told = json.loads(capsys.readouterr().out)
    assert told["counts"]["error"] == 1
    with pytest.raises(RecipeError, match="can't be written"):
        ask(Recorded(), json_file="/proc/nowhere/doctor.json")


def test_overrides_need_a_recipe():
    with pytest.raises(RecipeError, match="--set: overrides a key of a recipe; name one"):
        ask(Recorded(), overrides=["device=npu"])


def recipe_lines(machine: Machine, *overrides: str) -> list[Finding]:
    return [line for line in examine(machine, RECIPE, overrides) if line.subject == "recipe"]


def test_a_recipe_that_runs_here(capsys):
    assert ask(with_npus(), RECIPE) == 0
    assert lines(capsys.readouterr().out, "recipe") == [
        "ok recipe runs here on npu, bfloat16, attention sdpa, quantisation none"
    ]
    h200 = {"torch": "2.13.0", "cuda": "12.8", "available": True, "archs": ["sm_90"], "sum": 16.0, "nccl": "2",
            "devices": [{"name": "H200", "capability": [9, 0]}]}  # fmt: skip
    machine = Recorded(commands={"torch child": child(h200)})
    assert recipe_lines(machine)[0].what == "runs here on cuda, bfloat16, attention sdpa, quantisation none"
    old = Recorded(files={"/proc/cpuinfo": "flags : avx2"})
    assert recipe_lines(old)[0].what.startswith("runs here on cpu, float32, attention ")


def test_a_recipe_for_a_device_that_is_not_to_be_had():
    said = "device: 'npu' can't be used on this machine; usable: cpu"
    assert recipe_lines(Recorded(), "device=npu") == [
        error("recipe", said, "the lines above say why; `device: auto` takes what there is")
    ]


def test_a_recipe_that_the_npu_can_not_run():
    """No bitsandbytes, no flash-attn; a 910A without bfloat16; a processor for inference."""
    mend = "change the recipe, or run it elsewhere"
    found = recipe_lines(with_npus(), "model.quantization=nf4", "model.attn_implementation=flash_attention_2")
    assert [line.status for line in found] == ["error"] * len(found)
    assert any(
        line.what.startswith("model.quantization: nf4 does not run on npu; bitsandbytes has no") for line in found
    )
    assert any("'flash_attention_2' does not run on npu" in line.what for line in found)
    old = with_npus(probe=npu_works("Ascend910A", False))
    assert recipe_lines(old, "model.dtype=bfloat16") == [
        error("recipe", "model.dtype: 'bfloat16': this npu does not compute it", "model.dtype: auto or float32")
    ]
    assert recipe_lines(old)[0].what == "runs here on npu, float32, attention sdpa, quantisation none"
    assert [line.what for line in recipe_lines(with_npus(), "train.torch_compile=true")] == [
        "train.torch_compile: not on npu, whose compilers were never tried; set it to false"
    ]
    idle = with_npus(probe=npu_works("Ascend310P3", False))
    assert recipe_lines(idle) == [error("recipe", "device: 'npu': this processor is for inference only", mend)]


def test_bfloat16_that_is_only_imitated():
    old = Recorded(files={"/proc/cpuinfo": "flags : avx2"})
    assert recipe_lines(old, "model.dtype=bfloat16", "device=cpu") == [
        warning("recipe", "model.dtype: 'bfloat16': this cpu only imitates it, slowly", "model.dtype: auto or float32")
    ]


def test_a_wrong_recipe_is_an_error_line(capsys):
    assert ask(Recorded(), RECIPE, overrides=["train.learning_rate=fast"]) == 2
    found = lines(capsys.readouterr().out, "recipe")
    assert found[0].startswith("error recipe --set")
    assert "train.learning_rate" in found[0]
    assert found[1] == "do: `finetune check` after mending it"
    assert ask(Recorded(), Path("no/such.yaml")) == 2


def test_the_doctor_never_imports_torch_and_reports_the_environment_as_given():
    """On this very machine; a torch_npu that can't be imported would take an importing doctor along."""
    code = (
        "import sys\nsys.modules['torch_npu'] = None\nfrom finetune.cli import main\ncode = main(['doctor'])\n"
        "print(code, sorted({'torch', 'transformers', 'peft', 'accelerate'} & set(sys.modules)))"
    )
    env = {name: value for name, value in os.environ.items() if name != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] in ("0 []", "2 []")  # 2: this machine's disk or memory may be short
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD" not in done.stdout
    assert lines(done.stdout, "import torch")[0].startswith("ok import torch ")


def test_it_looks_at_an_environment_in_which_nothing_is_whole():
    """Its own libraries are missing too: it still says so."""
    code = (
        "import sys\nfor name in ('torch', 'rich', 'pydantic', 'psutil', 'yaml', 'transformers'): sys.modules[name] = None\n"
        "from finetune.device.machine import Answer, Machine\nfrom finetune.doctor.command import examine, show\n"
        "class Bare(Machine):\n    def version(self, name): return None\n    def run(self, *_, **__): return None\n"
        "show(examine(Bare()), sys.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert lines(done.stdout, "transformers")[0].startswith("error transformers not installed; needed: >=")


def test_help_names_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "exit code 2 when a line is an error, 0 otherwise (warnings too)" in told


def test_a_command_that_does_not_end_is_stopped_with_its_children():
    """The grandchild holds the pipe: CANN's compilers do. What was said before the end is kept."""
    started = time.perf_counter()
    assert Machine().run(["/bin/sh", "-c", "echo so far; sleep 60; true"], timeout=0.5) == Answer(None, "so far\n", "")
    assert time.perf_counter() - started < 10
    assert Machine().run(["no-such-program"], timeout=1.0) is None
    ended = Machine().run([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], timeout=20.0)
    assert ended is not None
    assert ended.code == -11
    told = Machine(env={"A": "1"}).run(["/usr/bin/env"], timeout=5.0, env={"B": "2"})
    assert told == Answer(0, "A=1\nB=2\n", "")


def test_facts_of_this_machine():
    machine = Machine(env={})
    assert (machine.version("no-such-distribution"), machine.requires("no-such-distribution")) == (None, [])
    assert machine.requires_python("no-such-distribution") is None
    assert machine.read("/no/such/file") is None
    assert machine.free_bytes("/no/such/folder") is None
    assert machine.paths("/dev/nul[l]") == ["/dev/null"]
    assert machine.tested()["torch"].split(".")[0] == "2"
