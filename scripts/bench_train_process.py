"""A run of bench_train.py as a process of its own: what it prints, when, its memory, and what else the machine did meanwhile."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SCRIPTS = Path(__file__).resolve().parent
STEP = re.compile(r"^step +(\d+)(?:/\d+)? ")  # our loop's line after a step, and bench_train_peer.py's
QUIET = 0.05  # of the machine's CPU time that other processes may take before it is said aloud


@dataclass(frozen=True)
class Told:
    """What a process came to.

    Attributes:
        times: when each step ended, in seconds from the start of the process.
        peak: bytes, over all processes that said theirs.
        others: the share of the machine's CPU time that went to other processes.
    """

    times: tuple[float, ...]
    peak: int
    lines: tuple[str, ...]
    others: float


def tell(
    words: Sequence[str],
    python: str,
    launcher: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    name: str = "",
) -> Told:
    """A script of this folder run to its end.

    Args:
        words: the script's file name and its arguments.
        launcher: stands between `python` and the script.
        name: where given, each step is said on stderr as it ends.
    """
    script, *rest = words
    command = [python, *launcher, str(SCRIPTS / script), *rest]
    times: list[float] = []
    lines, peak = [], 0
    began, busy, own = time.perf_counter(), _busy(), _own()
    variables = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment or {})
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    lines.append(line)
                    if STEP.match(line):
                        times.append(time.perf_counter() - began)
                        say(f"{name}: step {len(times)} after {times[-1]:.1f} s") if name else None
                    elif line.startswith("peak "):
                        peak += int(line.split()[1])
            except BaseException:  # Ctrl-C: a step can take minutes, and our loop would end it first
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            last = "".join([*lines[-20:], *errors.readlines()[-20:]])
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{last}")
    whole = (time.perf_counter() - began) * (psutil.cpu_count() or 1)
    others = max(0.0, (_busy() - busy) - (_own() - own)) / whole
    if name and others > QUIET:
        say(f"{name}: other processes took {others:.0%} of the machine's CPU time: not a quiet machine")
    return Told(tuple(times), peak, tuple(lines), others)


def _busy() -> float:
    """CPU seconds that the machine has computed."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _own() -> float:
    """CPU seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
