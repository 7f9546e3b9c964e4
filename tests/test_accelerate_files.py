"""scripts/accelerate/*.yaml: every key is one that accelerate knows, and launching starts what the file says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import (
    _filter_args,
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)
from torch.distributed.run import config_from_args, get_args_parser

from finetune.engine import check_launcher
from finetune.errors import RecipeError
from tests.conftest import ROOT
from tests.equivalence.processes import FSDP2, zero

FOLDER = ROOT / "scripts/accelerate"
FILES = {
    "cpu": ("NO", 1, 1),
    "single": ("NO", 1, 1),
    "ddp": ("MULTI_GPU", 1, 8),
    "fsdp2": ("FSDP", 1, 8),
    "zero2": ("DEEPSPEED", 1, 8),
    "zero3": ("DEEPSPEED", 1, 8),
    "multi_node": ("MULTI_GPU", 2, 16),
    "npu_single": ("NO", 1, 1),
    "npu_ddp": ("MULTI_NPU", 1, 8),
    "npu_fsdp2": ("FSDP", 1, 8),
    "npu_zero2": ("DEEPSPEED", 1, 8),
    "npu_zero3": ("DEEPSPEED", 1, 8),
    "npu_multinode": ("MULTI_NPU", 2, 16),
}
ASCEND = [name for name in FILES if name.startswith("npu_")]


def launch_arguments(name: str, *more: str) -> Any:
    """What `accelerate launch --config_file` makes of a file."""
    words = ["--config_file", str(FOLDER / f"{name}.yaml"), *more, "train.py"]
    return _validate_launch_command(launch_command_parser().parse_args(words))[0]


def test_all_files_are_listed():
    assert {file.stem for file in FOLDER.glob("*.yaml")} == FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_accelerate_knows_every_key(name):
    """Top-level keys by accelerate's own class, which refuses unknown ones; nested ones, which it takes unread, by its
    command line's options."""
    file = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert isinstance(config, ClusterConfig)
    kind, machines, processes = FILES[name]
    assert (config.distributed_type.value, config.num_machines, config.num_processes) == (kind, machines, processes)
    assert config.mixed_precision == "no"
    options = {action.dest for action in launch_command_parser()._actions}
    content = yaml.safe_load(file.read_text())
    nested = [key for section in content.values() if isinstance(section, dict) for key in section]
    assert [key for key in nested if key not in options] == []


def test_an_unknown_key_fails(tmp_path):
    (tmp_path / "bad.yaml").write_text((FOLDER / "ddp.yaml").read_text() + "num_procesess: 4\n")
    with pytest.raises(ValueError, match="num_procesess"):
        load_config_from_file(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize("name", ["fsdp2", "npu_fsdp2"])
def test_fsdp2_environment(name):
    """What the tests of FSDP2 set by hand is what the launcher sets from the file."""
    environment = prepare_multi_gpu_env(launch_arguments(name))
    assert {key: environment[key] for key in FSDP2} == FSDP2
    assert environment["FSDP_CPU_RAM_EFFICIENT_LOADING"] == environment["FSDP_OFFLOAD_PARAMS"] == "false"


@pytest.mark.parametrize("stage", ["2", "3"])
@pytest.mark.parametrize("family", ["", "npu_"])
def test_zero_environment(stage, family):
    arguments = launch_arguments(f"{family}zero{stage}")
    arguments.deepspeed_fields_from_accelerate_config = ""  # launch_command sets it
    _, environment = prepare_deepspeed_cmd_env(arguments)
    expected = zero(int(stage))
    assert {key: environment[key] for key in expected} == expected


def made_of(name: str) -> tuple[Any, dict[str, str]]:
    """The arguments and the environment that accelerate's own launcher for this file hands on."""
    arguments = launch_arguments(name, *(["--main_process_ip", "10.0.0.7"] if FILES[name][1] > 1 else []))
    arguments.deepspeed_fields_from_accelerate_config = ""
    if arguments.use_deepspeed:
        return arguments, prepare_deepspeed_cmd_env(arguments)[1]
    if FILES[name][0] == "NO":
        return arguments, prepare_simple_launcher_cmd_env(arguments)[1]
    return arguments, prepare_multi_gpu_env(arguments)


@pytest.mark.parametrize("name", ASCEND)
def test_ascend_starts_what_the_file_says(name, monkeypatch):
    """No device is hidden or shown against the user's word, nothing of NVIDIA's is asked for, and torch's own launcher
    gets the number of processes, machines and the meeting point. (accelerate believes that there is an NPU.)"""
    monkeypatch.setattr("accelerate.utils.launch.is_npu_available", lambda: True)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "2,3")
    arguments, environment = made_of(name)
    assert environment["ASCEND_RT_VISIBLE_DEVICES"] == "2,3"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    assert "ACCELERATE_CPU_AFFINITY" not in environment
    assert (arguments.use_cpu, arguments.tpu, arguments.use_megatron_lm) == (False, False, False)
    kind, machines, processes = FILES[name]
    if kind == "NO":
        assert environment["ACCELERATE_USE_CPU"] == "False"
        return
    started = _filter_args(arguments, get_args_parser(), ["--training_script", "train.py"])
    config, _, script = config_from_args(started)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (machines, machines, processes // machines)
    assert (config.rdzv_backend, script[-1]) == ("static", "train.py")
    if machines > 1:
        assert (config.rdzv_endpoint, config.rdzv_configs["rank"]) == ("10.0.0.7:29500", 0)


def test_a_number_in_gpu_ids_would_win_over_the_user(monkeypatch):
    """Why npu_single.yaml has `gpu_ids: all`, where single.yaml names a device."""
    monkeypatch.setattr("accelerate.utils.launch.is_npu_available", lambda: True)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "3")
    assert made_of("single")[1]["ASCEND_RT_VISIBLE_DEVICES"] == "0"
    assert made_of("npu_single")[1]["ASCEND_RT_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize("name", ASCEND)
def test_ascend_files_differ_from_the_others_in_words_only(name):
    """What they do is what the files without npu_ do, but for the device's name and what is NVIDIA's."""
    other = {"npu_multinode": "multi_node"}.get(name, name.removeprefix("npu_"))
    mine, theirs = (yaml.safe_load((FOLDER / f"{one}.yaml").read_text()) for one in (name, other))
    expected = {"enable_cpu_affinity": (False, None)}
    if mine["distributed_type"] == "MULTI_NPU":
        expected["distributed_type"] = ("MULTI_NPU", "MULTI_GPU")
    if name == "npu_single":
        expected["gpu_ids"] = ("all", "0")
    keys = mine.keys() | theirs.keys()
    assert {k: (mine.get(k), theirs.get(k)) for k in keys if mine.get(k) != theirs.get(k)} == expected
    text = (FOLDER / f"{name}.yaml").read_text()
    assert "source /usr/local/Ascend/ascend-toolkit/set_env.sh" in text
    assert "ASCEND_RT_VISIBLE_DEVICES" in text and ("HCCL_CONNECT_TIMEOUT" in text) == (name != "npu_single")


def command(name: str, *options: str) -> list[str]:
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    return [*launch, "--config_file", str(FOLDER / f"{name}.yaml"), *options, str(ROOT / "tests/say_engine.py")]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


def launch(name: str, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(name, *options), env=environment(**more), capture_output=True, text=True, timeout=120, cwd=Path("/")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cpu", [], ["rank 0 of 1: single, ranks sum to 0"]),
        ("single", [], ["rank 0 of 1: single, ranks sum to 0"]),
        ("ddp", ["--num_processes", "2"], [f"rank {rank} of 2: ddp, ranks sum to 1" for rank in (0, 1)]),
        ("fsdp2", ["--num_processes", "2"], [f"rank {rank} of 2: fsdp2, ranks sum to 1" for rank in (0, 1)]),
        # accelerate's own trap: two are asked for, one runs. When this fails, say in cpu.yaml that it has been mended.
        ("cpu", ["--num_processes", "2"], ["rank 0 of 1: single, ranks sum to 0"]),
    ],
)
def test_launch(name, options, said):
    """T18: what is started, by accelerate's own launcher, on this machine's CPU."""
    done = launch(name, *options)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == said


@pytest.mark.slow
def test_two_machines():
    """Two launchers as on two machines, meeting on loopback: 2 x 1 processes."""
    options = ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
    options += ["--main_process_port", "29641"]
    runs = [
        subprocess.Popen(
            command("multi_node", *options, "--machine_rank", rank),
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    said = sorted(line for output, _ in outputs for line in output.splitlines())
    assert said == [f"rank {rank} of 2: ddp, ranks sum to 1" for rank in (0, 1)]


def test_refused_settings(monkeypatch):
    """Settings that would do something else than the recipe says are refused before anything starts, all at once."""
    for name, value in prepare_multi_gpu_env(launch_arguments("fsdp2")).items():
        monkeypatch.setenv(name, value)
    check_launcher()
    changes = {"VERSION": "1", "OFFLOAD_PARAMS": "true", "ACTIVATION_CHECKPOINTING": "True"}
    for name, value in changes.items():
        monkeypatch.setenv(f"FSDP_{name}", value)
    with pytest.raises(RecipeError) as error:
        check_launcher()
    assert error.value.problems == [
        "launcher: fsdp_version: 1 is not supported; set it to 2",
        "launcher: fsdp_activation_checkpointing: set train.gradient_checkpointing in the recipe instead",
        "launcher: fsdp_offload_params: not supported; set it to false",
    ]
