"""How near `finetune plan` comes: small real trainings on this CPU, planned and measured, each in processes of its own.

    OMP_NUM_THREADS=1 python scripts/bench_plan.py                  # all workloads
    python scripts/bench_plan.py --only metar-4 dpo-4 --steps 6

Planned: `finetune plan --json -` before the run, so that it knows the rows by its sample of 200 (the cache is made by the
run). Measured: the process's largest resident memory (ru_maxrss) and the median step without the first, out of
metrics.jsonl. Prints a Markdown table with measured / planned and writes everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
METAR = ROOT / "recipes/meteorology/metar_decode.yaml"
DPO = ROOT / "recipes/finance/compliant_wording_dpo.yaml"
TURNS = 6  # of a chat


@dataclass(frozen=True)
class Workload:
    """A recipe with settings; `chats`: its rows are long conversations made here."""

    recipe: Path
    settings: tuple[str, ...]
    chats: bool = False


def batch(size: int, *more: str) -> tuple[str, ...]:
    """One micro-batch a step, of so many sequences; layers not compiled unless `more` says so."""
    return (f"train.global_batch_size={size}", f"train.micro_batch_size={size}", "train.torch_compile=false", *more)


CHECKPOINTED, FLOAT32 = "train.gradient_checkpointing=true", "model.dtype=float32"
WORKLOADS = {
    "metar-4": Workload(METAR, batch(4)),
    "metar-16": Workload(METAR, batch(16)),
    "metar-16-checkpointed": Workload(METAR, batch(16, CHECKPOINTED)),
    "metar-8-float32": Workload(METAR, batch(8, FLOAT32)),
    "metar-16-compiled": Workload(METAR, batch(16, "train.torch_compile=true")),
    "metar-8-sdpa": Workload(METAR, batch(8, "model.attn_implementation=sdpa")),
    "chats-2": Workload(METAR, batch(2), chats=True),
    "chats-4-checkpointed": Workload(METAR, batch(4, CHECKPOINTED), chats=True),
    "chats-2-float32": Workload(METAR, batch(2, FLOAT32), chats=True),
    "dpo-2": Workload(DPO, batch(2, "dpo.precompute_ref_log_probs=false")),
    "dpo-4": Workload(DPO, batch(4, "dpo.precompute_ref_log_probs=false")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=[*WORKLOADS])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/bench_plan"))
    parser.add_argument("--train", nargs="+", help=argparse.SUPPRESS)  # the child: a recipe and its settings
    options = parser.parse_args()
    if options.train:
        train(Path(options.train[0]), options.train[1:])
        return
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    chats = write_chats(options.output / "chats.jsonl")
    found = []
    print("| workload | planned GiB | measured GiB | ratio | planned s a step | measured s a step | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in options.only:
        row = one(name, WORKLOADS[name], options.steps, options.output.resolve() / name, chats)
        found.append(row)
        (options.output / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(
            f"| {name} | {row['planned_gib']:.2f} | {row['measured_gib']:.2f} | "
            f"{row['measured_gib'] / row['planned_gib']:.2f} | {row['planned_step']:.2f} | {row['measured_step']:.2f} | "
            f"{row['measured_step'] / row['planned_step']:.2f} |",
            flush=True,
        )
    print(found[0]["plan"]["hardware"]["source"])


def one(name: str, workload: Workload, steps: int, folder: Path, chats: Path) -> dict[str, Any]:
    """Planned, then run."""
    settings = [
        *workload.settings, f"train.max_steps={steps}", "train.warmup_ratio=0", "train.save_steps=0", "gate.min={}",
        "gate.better_than_base=false", "device=cpu", f"output_dir={folder / 'run'}",
    ]  # fmt: skip
    if workload.chats:
        settings += [
            "data.template=null", "data.format=messages", f"data.train={chats}", "data.split={eval_rows: 2}",
            "data.max_length=1024", "data.too_long=drop",
        ]  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    program = [sys.executable, "-m", "finetune.cli", "plan", str(workload.recipe), "--hardware", "cpu", "--json", "-"]
    plan = json.loads(output([*program, *words], may_fail=True))
    output([sys.executable, __file__, "--train", str(workload.recipe), *settings])
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    seconds = [float(word) for word in (folder / "run/seconds.txt").read_text().split()]
    return {
        "workload": name, "plan": plan,
        "planned_gib": plan["memory"]["total"] / 2**30, "measured_gib": max(line["peak_memory_gib"] for line in lines),
        "planned_step": plan["time"]["step"], "measured_step": median(seconds[1:]), "seconds": seconds,
    }  # fmt: skip


def train(recipe: Path, settings: Sequence[str]) -> None:
    """The child: the run up to its adapter, with the time of each step beside it."""
    import time

    from finetune import train as loop
    from finetune.recipefile import load_recipe
    from finetune.run import Extent, run

    times, step = [], loop.take_step

    def timed(*given: Any) -> Any:
        started = time.perf_counter()
        outcome = step(*given)
        times.append(time.perf_counter() - started)
        return outcome

    loop.take_step = timed
    whole = load_recipe(recipe, settings)
    run(whole, overwrite=True, extent=Extent(until="adapter"))
    (whole.output_dir / "seconds.txt").write_text(" ".join(f"{one:.4f}" for one in times), encoding="utf-8")


def write_chats(file: Path) -> Path:
    """Conversations of some hundred to a thousand tokens, made of the sample's own questions and answers."""
    questions = [
        json.loads(line) for line in (ROOT / "data_templates/general/replay.sample.jsonl").open(encoding="utf-8")
    ]
    texts = [
        " ".join(str(value) for value in row.values() if isinstance(value, str)) or json.dumps(row) for row in questions
    ]
    rows = []
    for number in range(60):
        said = [
            texts[(number * 13 + turn * 7) % len(texts)][: 150 + 60 * ((number + turn) % 9)] for turn in range(TURNS)
        ]
        roles = ["user", "assistant"] * (TURNS // 2)
        said = [f"{number}.{turn} {text}" for turn, text in enumerate(said)]
        rows.append({"messages": [{"role": r, "content": c} for r, c in zip(roles, said, strict=True)]})
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file.resolve()


def output(command: Sequence[str], may_fail: bool = False) -> str:
    """What a process prints; where it fails, what it said, and the end."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in ((0, 3) if may_fail else (0,)):
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
