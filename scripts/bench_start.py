"""How long commands take to start: fresh processes in turn with `python -c pass`, medians. Linux.

    python scripts/bench_start.py                           # --help and check, five of each
    python scripts/bench_start.py --train --repeats 3       # and to the first training step of SmolLM2-135M
    python scripts/bench_start.py --against ../other        # beside another checkout, in turn

`first` is a launch beside which nothing is kept (no rows, no encoding, no base), `again` the next one. Python's own
cache of compiled sources is filled before, as an installation's is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from first_step import first_step

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes/meteorology/metar_decode.yaml"
# One short conversation a step: what is measured is the way to it.
SMALL = ("train.torch_compile=false", "train.global_batch_size=1", "train.max_steps=2", "train.logging_steps=1",
         "train.save_steps=0")  # fmt: skip
COMMAND = "import sys; from finetune.cli import program; program(sys.argv[1:])"


def environment(checkout: Path, scratch: Path) -> dict[str, str]:
    """Of a process of that checkout, whose compiled sources lie in `scratch`."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **given,
        "PYTHONPATH": str(checkout),
        "PYTHONPYCACHEPREFIX": str(scratch / "compiled"),
        "HF_HUB_OFFLINE": "1",
    }


def seconds(*command: str, env: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    return time.perf_counter() - start


def ways(checkout: Path, scratch: Path, train: bool) -> dict[str, Callable[[], float]]:
    """What is measured of one checkout, by its name; in the order that `again` finds what `first` kept."""
    env = environment(checkout, scratch)
    output = scratch / "runs"

    def check(fresh: bool) -> float:
        if fresh:
            shutil.rmtree(output, ignore_errors=True)
        return seconds("-c", COMMAND, "check", str(RECIPE), "--set", f"output_dir={output / 'x'}", env=env)

    def step(fresh: bool) -> float:
        if fresh:
            shutil.rmtree(output, ignore_errors=True)
        return first_step(RECIPE, f"output_dir={output / 'x'}", *SMALL, checkout=checkout, environment=env).seconds

    found: dict[str, Callable[[], float]] = {
        "finetune --help": lambda: seconds("-c", COMMAND, "--help", env=env),
        "finetune check, first": lambda: check(True),
        "finetune check, again": lambda: check(False),
    }
    if train:
        found |= {"first step, first": lambda: step(True), "first step, again": lambda: step(False)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--against", type=Path, help="another checkout")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        checkouts = {"": ROOT} | ({f" ({given.against.name})": given.against.resolve()} if given.against else {})
        measured: dict[str, Callable[[], float]] = {
            "python -c pass": lambda: seconds("-c", "pass", env=dict(os.environ))
        }
        for label, checkout in checkouts.items():
            its = ways(checkout, Path(name) / (label.strip() or "here"), given.train)
            measured |= {f"{way}{label}": run for way, run in its.items()}
            its["finetune check, first"]()  # compiles the sources
        times: dict[str, list[float]] = {way: [] for way in measured}
        for _ in range(given.repeats):
            for way, run in measured.items():
                times[way].append(run())
    print(f"seconds, median (least) of {given.repeats} fresh processes each, in turn\n")
    print("| command | s | least |\n|---|---|---|")
    for way, its_times in times.items():
        print(f"| {way} | {statistics.median(its_times):.2f} | {min(its_times):.2f} |")


if __name__ == "__main__":
    main()
