"""`finetune train` up to its first step: when each line came, and what memory its main process had by then. Linux."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIRST_STEP = r"step +1/"


@dataclass(frozen=True)
class FirstStep:
    """A run that was stopped after its first step.

    Attributes:
        seconds: from the launch of the process to the line of the first step.
        lines: (seconds, line) of everything it said.
        peak: MiB resident at most, pages of files that it mapped included (VmHWM); `anonymous`: at the end, without those.
    """

    seconds: float
    lines: tuple[tuple[float, str], ...]
    peak: float
    anonymous: float


def first_step(
    recipe: Path, *settings: str, checkout: Path = ROOT, environment: dict[str, str] | None = None
) -> FirstStep:
    """Launches the recipe anew and stops it after its first step.

    Args:
        checkout: whose program.
        environment: of the process; this one's where it is None.

    Raises:
        SystemExit: it ended before, with all that it said.
    """
    sets = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, str(checkout / "scripts/train.py"), str(recipe), "--overwrite", *sets]
    path = {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**(environment or os.environ), **path},
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[tuple[float, str]] = []
    for line in process.stdout:
        lines.append((time.perf_counter() - start, line.rstrip()))
        if re.match(FIRST_STEP, line):
            memory = _memory(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
            return FirstStep(lines[-1][0], tuple(lines), memory["VmHWM"], memory["RssAnon"])
    process.wait()
    raise SystemExit("\n".join(["no first step:", *(line for _, line in lines)]))


def _memory(pid: int) -> dict[str, float]:
    """MiB by the names of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return {name: int(kib) / 1024 for name, kib in re.findall(r"(VmHWM|RssAnon):\s+(\d+) kB", text)}


def steps_line(name: str, runs: Sequence[FirstStep]) -> str:
    """A row of a table: the name, and the median run's seconds and MiB."""
    middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
    return f"| {name} | {middle.seconds:.1f} | {middle.peak:,.0f} | {middle.anonymous:,.0f} |"
