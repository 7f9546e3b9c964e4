"""Two gloo processes on this machine: `torchrun`, because `accelerate launch --cpu` starts one without saying so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT

# What `accelerate launch --config_file scripts/accelerate/fsdp2.yaml` sets; a test compares the two.
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def zero(stage: int) -> dict[str, str]:
    """What the launcher sets from zero2.yaml or zero3.yaml."""
    names = ("USE_DEEPSPEED", "DEEPSPEED_ZERO_STAGE", "DEEPSPEED_ZERO3_INIT")
    return dict(zip((f"ACCELERATE_{name}" for name in names), ("true", str(stage), "false"), strict=True))


# --standalone takes a free port, so that several suites may run on one machine.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command with one thread a process, ended somehow."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [str(part) for part in command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
    )


def torchrun(arguments: Sequence[str | Path], environment: dict[str, str] | None = None) -> str:
    """stdout of two processes that have ended well."""
    done = start([*TORCHRUN, *arguments], environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
