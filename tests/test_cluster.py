"""scripts/cluster/: each file hands the same launch to every machine; two machines (two agents) train as one process."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.test_batches import assert_same_run

FOLDER = ROOT / "scripts/cluster"
STUBS = {
    "accelerate": 'printf "%q " "$@"; echo "timeout=$TORCH_ELASTIC_SHUTDOWN_TIMEOUT"',
    "scontrol": 'test "$*" = "show hostnames big[3-4]"; printf "big3\\nbig4\\n"',
    "srun": 'test "$1" = --kill-on-bad-exit=1; shift; for id in 0 1; do SLURM_NODEID=$id "$@"; done',
}


@pytest.fixture
def stubs(tmp_path) -> dict[str, str]:
    """An environment whose launcher prints its arguments, and a Slurm of two machines that are this one."""
    for name, script in STUBS.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\nset -e\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def launches(stdout: str) -> list[Any]:
    """What each line of the stub's output means to accelerate's own parser."""
    found = []
    for line in stdout.splitlines():
        *words, timeout = shlex.split(line)
        assert words.pop(0) == "launch"
        assert timeout == "timeout=280"
        found.append(launch_command_parser().parse_args(words))
    return found


def assert_two_machines(stdout: str, host: str, port: int, script: list[str], file: str = "multi_node") -> None:
    """The launch of machines 0 and 1 with 8 accelerators each."""
    both = launches(stdout)
    assert [(one.machine_rank, one.num_machines, one.num_processes) for one in both] == [(0, 2, 16), (1, 2, 16)]
    for one in both:
        assert (one.main_process_ip, one.main_process_port) == (host, port)
        assert one.config_file == f"scripts/accelerate/{file}.yaml"
        assert [one.training_script, *one.training_script_args] == ["scripts/train.py", *script, "--resume", "auto"]


@pytest.mark.parametrize("name", ["node.sh", "slurm.sh", "slurm_npu.sh"])
def test_scripts_are_bash(name):
    subprocess.run(["bash", "-n", str(FOLDER / name)], check=True)
    shellcheck = shutil.which("shellcheck")
    if shellcheck:
        subprocess.run([shellcheck, str(FOLDER / name)], check=True)


def test_slurm(stubs):
    """Two machines of a job; a port of the job's own; arguments with spaces stay whole."""
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NODELIST": "big[3-4]", "SLURM_NNODES": "2"}
    job |= {"SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "1234567"}
    command = ["bash", str(FOLDER / "slurm.sh"), "my recipe.yaml", "--set", "name=a b"]
    done = subprocess.run(command, env=stubs | job, capture_output=True, text=True, check=True, cwd="/")
    assert_two_machines(done.stdout, "big3", 24567, ["my recipe.yaml", "--set", "name=a b"])


def test_slurm_on_ascend(stubs, tmp_path):
    """CANN's environment reaches every machine; Slurm counts no NPUs, so the script does; its usual file and timeout."""
    (tmp_path / "set_env.sh").write_text('export CANN_IS=here:"$CANN_ELSE"\nfalse\n')
    (tmp_path / "bin/accelerate").write_text(
        '#!/usr/bin/env bash\nprintf "%q " "$@"; echo "timeout=$TORCH_ELASTIC_SHUTDOWN_TIMEOUT"\n'
        'echo "$CANN_IS $HCCL_CONNECT_TIMEOUT" >&2\n'
    )
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NODELIST": "big[3-4]", "SLURM_NNODES": "2"}
    job |= {"SLURM_JOB_ID": "1234567", "CANN_SET_ENV": str(tmp_path / "set_env.sh")}
    command = ["bash", str(FOLDER / "slurm_npu.sh"), "my recipe.yaml"]
    done = subprocess.run(command, env=stubs | job, capture_output=True, text=True, check=True, cwd="/")
    assert_two_machines(done.stdout, "big3", 24567, ["my recipe.yaml"], "npu_multinode")
    assert done.stderr == "here: 600\n" * 2
    more = {"NPUS_PER_NODE": "16", "HCCL_CONNECT_TIMEOUT": "1200"}
    done = subprocess.run(command, env=stubs | job | more, capture_output=True, text=True, check=True, cwd="/")
    assert [one.num_processes for one in launches(done.stdout)] == [32, 32]
    assert done.stderr == "here: 1200\n" * 2
    done = subprocess.run(command, env=stubs | job | {"CANN_SET_ENV": "/none"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no CANN at /none; set CANN_SET_ENV to its set_env.sh\n"


def test_slurm_without_a_recipe(stubs):
    done = subprocess.run(["bash", str(FOLDER / "slurm.sh")], env=stubs, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: sbatch scripts/cluster/slurm.sh RECIPE [--set KEY=VALUE ...]\n"


def test_kubernetes(stubs):
    """The keys that the TrainJob relies on (CRD of kubeflow/trainer, commit 8c0f5059), and what its command starts."""
    job = yaml.safe_load((FOLDER / "trainjob.yaml").read_text())
    assert job.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["spec"].keys() <= {
        "activeDeadlineSeconds", "initializer", "managedBy", "runtimePatches", "runtimeRef", "suspend", "trainer",
    }  # fmt: skip
    assert job["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    trainer = job["spec"]["trainer"]
    assert trainer.keys() <= {"args", "command", "env", "image", "numNodes", "numProcPerNode", "resourcesPerNode"}
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == trainer["numProcPerNode"]
    (patch,) = job["spec"]["runtimePatches"]
    assert patch.keys() == {"manager", "trainingRuntimeSpec"}
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"  # of the runtime torch-distributed, as its container's
    pod = replicated["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "node"
    assert container["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
    assert pod["terminationGracePeriodSeconds"] > 280  # node.sh's time between SIGTERM and SIGKILL

    given = {"PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"])}
    given |= {"PET_MASTER_ADDR": "finetune-node-0-0.finetune", "PET_MASTER_PORT": "29400"}
    given |= {entry["name"]: entry["value"] for entry in trainer["env"]}
    command = [*trainer["command"], *trainer["args"]]
    said = ""
    for rank in ("0", "1"):
        said += subprocess.run(
            command, env=stubs | given | {"PET_NODE_RANK": rank}, capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
    recipe = given["RECIPE"]
    assert (ROOT / recipe).is_file()
    expected = [recipe, "--set", "output_dir=/runs/finetune"]
    assert_two_machines(said, "finetune-node-0-0.finetune", 29400, expected)


def test_skypilot(stubs, tmp_path):
    """The task's keys, and what `run` starts on each machine."""
    task = yaml.safe_load((FOLDER / "sky.yaml").read_text())
    assert task.keys() <= {"name", "num_nodes", "workdir", "resources", "envs", "file_mounts", "setup", "run"}
    assert task["resources"] == {"accelerators": "H100:8"}
    subprocess.run(["bash", "-n"], input=task["setup"], text=True, check=True)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    given = {"SKYPILOT_NUM_NODES": str(task["num_nodes"]), "SKYPILOT_NUM_GPUS_PER_NODE": "8"} | task["envs"]
    given |= {"SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8"}
    said = ""
    for rank in ("0", "1"):
        said += subprocess.run(
            ["bash", "-c", task["run"]], env=stubs | given | {"SKYPILOT_NODE_RANK": rank},
            capture_output=True, text=True, check=True, cwd=tmp_path,
        ).stdout  # fmt: skip
    assert_two_machines(said, "10.0.0.7", 29500, [given["RECIPE"], "--set", "output_dir=/runs/finetune"])


@pytest.mark.slow
def test_two_agents_are_one_run(tiny_base, tiny_data, tmp_path):
    """T18: two torchrun agents, as on two machines, that meet over a c10d rendezvous on loopback, = one process."""
    (tmp_path / "one").mkdir()
    recipe = load_recipe(write_tiny_recipe(tmp_path / "one", tiny_base, tiny_data))
    run(recipe)
    (tmp_path / "two").mkdir()
    file = write_tiny_recipe(tmp_path / "two", tiny_base, tiny_data)
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    agent += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:29651", "--rdzv_id", "finetune", "--node_rank"]
    agents = [
        subprocess.Popen(
            [*agent, rank, str(ROOT / "scripts/train.py"), str(file), "--set", "train.micro_batch_size=2"],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path("/"),
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    outputs = [agent.communicate(timeout=240) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert "cpu, float32, 2 process(es), ddp" in "".join(stdout for stdout, _ in outputs)
    assert_same_run(tmp_path / "two/run", recipe.output_dir)
