"""Our training loop beside a peer's, in turn on one machine: the same model, samples, order, batch, dtype and rates.

    python scripts/bench_train.py --workload chat                    # float32, TRL as it comes and as well as it goes
    python scripts/bench_train.py --workload chat --dtype bfloat16
    python scripts/bench_train.py --workload chat --processes 2      # ours alone: one process of one thread, and two
    python scripts/bench_train.py --workload qwen3-8b-8k --peers trl_liger unsloth     # on a GPU

Every run is a process of its own; the machine's matmul peak is measured before and after them. Real tokens are those that are no
padding. The first step is left out of the medians and reported on its own, from the start of the process. Ends with 1 where
the loss curves differ by more than the dtype's noise; in bfloat16 on a CPU, where ours is far from its own float32 curve, which
is run too. Ours is a recipe (printed) run by the real loop up to its adapter.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

from scripts import bench_train_report as report  # noqa: E402
from scripts.bench_train_process import STEP, Told, say, tell  # noqa: E402
from scripts.bench_train_report import Run  # noqa: E402
from scripts.bench_train_workloads import ALPHA, PEERS, RANK, RATE, SEED, WORKLOADS, Peer  # noqa: E402

TRL = "1.16.0"


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended from outside, it ends what it started
    options = parsed()
    workload = WORKLOADS[options.workload]
    peers = {} if options.processes > 1 else usable(options.peers or workload.peers, options.peer_python)
    folder = Path(tempfile.mkdtemp(prefix="bench_train", dir=options.folder))
    steps = 1 + (options.steps or workload.steps)
    device = options.device or workload.device
    options.dtype = options.dtype or ("float32" if device == "cpu" else "bfloat16")
    ask = {"workload": options.workload, "dtype": options.dtype, "device": device, "steps": steps, "set": options.set}
    (folder / "ask.json").write_text(json.dumps(ask), encoding="utf-8")
    try:
        tell(["bench_train_prepare.py", str(folder)], sys.executable)
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        peaks = [matmul_peak(options, device)]
        runs = scaling(options, folder, device) if options.processes > 1 else alternating(options, folder, ask, peers)
        exact = None
        if options.dtype == "bfloat16" and device == "cpu" and options.processes == 1:
            exact = our_run(options, folder, folder / "runs/exact", device, "ours in float32", ("model.dtype=float32",))
        peaks.append(matmul_peak(options, device))
        scores = [held_out(options, folder, loop) for loop in runs] if options.score else []
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    rows = [list(report.COLUMNS), *report.table(runs, facts, max(peaks), workload.stage == "dpo")]
    if not options.markdown:
        print(about(workload.what, facts, max(peaks), options))
    print((report.markdown if options.markdown else report.aligned)(rows))
    if options.processes > 1:
        share = report.efficiency(runs, options.processes)
        print(f"\n{options.processes} processes of one thread: {share:.0%} of as many times one")
    if exact is not None:
        print(f"\n{report.distances(runs, exact)}")
    print("", *scores, sep="\n") if scores else None
    problems = report.disagreements(runs, options.dtype, exact, workload.stage == "dpo")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    sys.exit(1 if problems else 0)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="chat")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU")
    parser.add_argument("--steps", type=int, help="measured steps of a run, after the first (default: the workload's)")
    parser.add_argument(
        "--repeats", type=int, default=1, help="runs of each loop (default 1); every other turn is reversed"
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="default: the workload's")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has TRL (default: this one)")
    parser.add_argument(
        "--processes", type=int, default=1, help="ours with one process and with so many, a thread each"
    )
    parser.add_argument("--threads", type=int, help="of both sides and of the matmul (default: torch's own choice)")
    parser.add_argument("--device", choices=("cpu", "cuda", "npu"), help="default: the workload's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of our recipe")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave what was written there")
    parser.add_argument(
        "--score", type=int, metavar="ROWS", help="ask each loop's adapter so many held-out rows at the end"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table alone, as Markdown")
    return parser.parse_args()


def usable(names: Sequence[str], python: str) -> dict[str, Peer]:
    """The peers whose packages `python` has; those that it has not are named."""
    found = {}
    for name in names:
        missing = [package for package in ("trl", "peft", *PEERS[name].needs) if not has(python, package)]
        if not missing:
            found[name] = PEERS[name]
            continue
        say(f"{name}: left out: {python} has no {', '.join(missing)}")
        if "trl" in missing or "peft" in missing:
            say(
                f"install it: {python} -m pip install 'trl[peft]=={TRL}'   (or name another interpreter with --peer-python)"
            )
    if not found:
        raise SystemExit("no peer is left to compare with")
    return found


def has(python: str, package: str) -> bool:
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", look]).returncode == 0


def alternating(
    options: argparse.Namespace, folder: Path, ask: dict[str, Any], peers: dict[str, Peer]
) -> dict[str, list[Run]]:
    """Each loop in turn, `repeats` times; every other time in the opposite order."""
    loops = ["ours", *peers]
    runs: dict[str, list[Run]] = {loop: [] for loop in loops}
    for number in range(options.repeats):
        for loop in loops if number % 2 == 0 else reversed(loops):
            output = folder / f"runs/{loop}-{number}"
            if loop == "ours":
                run = our_run(options, folder, output, ask["device"])
            else:
                run = peer_run(options, folder, output, ask, loop)
            runs[loop].append(run)
    return runs


def our_run(
    options: argparse.Namespace, folder: Path, output: Path, device: str, loop: str = "ours",
    changes: Sequence[str] = (), processes: int = 0,
) -> Run:  # fmt: skip
    """Ours; `processes`: so many with a thread each, 0: one with all threads. `changes`: of the recipe, KEY=VALUE."""
    words = ["bench_train_ours.py", str(folder / "recipe.yaml"), device, *options.set, *changes, f"output_dir={output}"]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    told = tell(words, sys.executable, launcher, of_threads(1 if processes else options.threads), loop)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return as_run(loop, told, [line["loss"] for line in lines])


def peer_run(options: argparse.Namespace, folder: Path, output: Path, ask: dict[str, Any], name: str) -> Run:
    peer, workload = PEERS[name], WORKLOADS[options.workload]
    words = {
        "peer": name, "output": str(output), "base": str(folder / "base"), "items": str(folder / "items.jsonl"),
        "initial": str(folder / "initial"), "stage": workload.stage, "batch": workload.batch, "steps": ask["steps"],
        "micro_batch": min(size for size in (peer.micro_batch, workload.micro_batch, workload.batch) if size),
        "own_dtype": peer.own_dtype, "flash": "flash_attn" in peer.needs,
        "arguments": dict(peer.arguments), "dtype": options.dtype, "device": ask["device"], "rate": RATE,
        "r": RANK, "alpha": ALPHA, "seed": SEED, "max_length": workload.max_length,
    }  # fmt: skip
    file = folder / f"{name}.json"
    file.write_text(json.dumps(words), encoding="utf-8")
    told = tell(
        ["bench_train_peer.py", str(file)], options.peer_python, environment=of_threads(options.threads), name=name
    )
    return as_run(name, told, [float(line.split()[3]) for line in told.lines if STEP.match(line)])


def held_out(options: argparse.Namespace, folder: Path, loop: str) -> str:
    """What the adapter of a loop's first run scores on held-out rows, all asked by `finetune evaluate`."""
    adapter, output = folder / f"runs/{loop}-0/adapter", folder / f"runs/{loop}.evaluation"
    words = ["evaluate", str(folder / "recipe.yaml"), "--adapter", str(adapter), "--output", str(output)]
    settings = [word for key in (*options.set, f"evaluate.rows={options.score}", "gate={}") for word in ("--set", key)]
    done = subprocess.run([sys.executable, "-m", "finetune.cli", *words, *settings], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"finetune {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    told = json.loads((output / "scores.json").read_text(encoding="utf-8"))
    intervals = (told["intervals"] or {}).get("tuned", {})
    each = [f"{name} {value:.3f} {intervals.get(name, '')}" for name, value in told["scores"]["tuned"].items()]
    return f"{loop}, {options.score} held-out rows: {', '.join(each)}"


def as_run(loop: str, told: Told, losses: Sequence[float]) -> Run:
    seconds = tuple(after - before for before, after in pairwise(told.times))
    return Run(loop, told.times[0], seconds, tuple(losses), told.peak, told.others)


def scaling(options: argparse.Namespace, folder: Path, device: str) -> dict[str, list[Run]]:
    """Ours in one process of one thread, and in several of one each."""
    runs: dict[str, list[Run]] = {"ours": [], f"ours, {options.processes} processes": []}
    for number in range(options.repeats):
        for loop, processes in zip(runs, (1, options.processes), strict=True):
            run = our_run(options, folder, folder / f"runs/{processes}-{number}", device, loop, processes=processes)
            runs[loop].append(run)
    return runs


def matmul_peak(options: argparse.Namespace, device: str) -> float:
    """FLOP/s of the best of some large products, in a process of its own."""
    words = ["bench_train_ours.py", "matmul", device, options.dtype]
    return float(tell(words, sys.executable, environment=of_threads(options.threads)).lines[-1].split()[1])


def of_threads(threads: int | None) -> dict[str, str]:
    """What a process reads its number of threads from; nothing where it is left open."""
    return {"OMP_NUM_THREADS": str(threads)} if threads else {}


def about(what: str, facts: dict[str, Any], peak: float, options: argparse.Namespace) -> str:
    """What was compared, where and how."""
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft")]
    tokens = [sum(step["lengths"]) for step in facts["steps"]]
    threads = f"{options.threads or 'all'} threads"
    padding = report.padded_share(facts["steps"])
    return "\n".join([
        f"{what}; {facts['dtype']}; {platform.machine()}, {os.cpu_count()} cores, {threads}, {', '.join(packages)}",
        f"steps of {min(tokens):,} to {max(tokens):,} real tokens; padded to the longest, {padding:.0%} "
        f"would be padding; matmul peak {peak / 1e9:,.0f} GFLOP/s",
        f"ours: {', '.join(f'{key}={value}' for key, value in facts['ours'].items())}"
        + "".join(f", {change}" for change in options.set),
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
