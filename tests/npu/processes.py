"""Processes that see the emulated device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT

SITE = ROOT / "tests/npu/site"
NEEDS_TORCH = pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="the emulated device uses private interfaces of torch 2.13"
)


def environment(**changes: str) -> dict[str, str]:
    """PYTHONPATH with the emulated device before everything, one thread, no network."""
    path = os.pathsep.join([str(SITE), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | changes


def python(*arguments: str | Path, **changes: str) -> str:
    """stdout of a Python process that has ended well."""
    command = [sys.executable, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout
