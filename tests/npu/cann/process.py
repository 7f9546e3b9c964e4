"""Processes with the real torch_npu wheel on the fake CANN runtime, from where scripts/get_torch_npu.sh puts the two."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / ".torch_npu"
KERNELS = ROOT / "tests/npu/cann/site"
SECONDS = 240  # a deadline for the slowest process on a busy machine


def wheel() -> Path:
    """The folder that holds the package torch_npu. A test is skipped only where the wheel or gcc can't be had."""
    version = next(line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("torch_npu=="))
    stamp = FOLDER / ".version"
    if not (stamp.is_file() and stamp.read_text().startswith(version.replace("==", " ") + ",")):
        if (platform.system(), platform.machine()) not in {("Linux", "x86_64"), ("Linux", "aarch64")}:
            pytest.skip(f"torch_npu has no wheel for {platform.system()} on {platform.machine()}")
        if not (3, 10) <= sys.version_info[:2] <= (3, 14):
            pytest.skip(f"torch_npu has no wheel for Python {platform.python_version()}")
        if shutil.which("gcc") is None:
            pytest.skip("gcc is missing, which builds the CANN runtime that torch_npu is tested on")
        pytest.fail("run scripts/get_torch_npu.sh first (scripts/test.sh does)")
    return FOLDER / "site"


def environment(*, cann: bool = True, kernels: bool = True, **more: str) -> dict[str, str]:
    """For a child process: with the CANN runtime or as on a machine without CANN, with or without kernels on it.

    TASK_QUEUE_ENABLE=0: nothing is queued behind the back of kernels that compute at once.
    """
    found = {name: value for name, value in os.environ.items() if not name.startswith(("ASCEND_", "TORCH_DEVICE_"))}
    paths = [ROOT, *([KERNELS] if kernels else []), wheel(), found.get("PYTHONPATH", "")]
    found |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", "TASK_QUEUE_ENABLE": "0"}
    if cann:
        found["LD_LIBRARY_PATH"] = os.pathsep.join([str(FOLDER / "cann"), found.get("LD_LIBRARY_PATH", "")])
    return found | more


def python(
    arguments: Sequence[str | Path], environment: dict[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """The interpreter of the tests in a child process that has ended somehow."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
