"""Base against tuned on held-out real data, three seeds a task: makes docs/results.json and the pages docs/results*.md of it.

    python scripts/results.py                            # what docs/results.json lacks and whose data is here, then the pages
    python scripts/results.py --only chemprot --seeds 17
    python scripts/results.py --again --only chemprot    # measured anew
    python scripts/results.py --pages                    # the pages only

A run is `finetune train` of a shipped recipe up to the scores, on SmolLM2-135M-Instruct, in a process of its own. Data that
the project does not ship is looked for in ../shared/data (docs/packs/ says where each set comes from).
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

from scripts.results_page import STORE, write_pages  # noqa: E402
from scripts.results_tasks import ALL, DATA, SEEDS, Task  # noqa: E402

RUN = [task.name for task in ALL if not task.runs]
# Runs of minutes: compiling takes longer than it saves, and nothing is resumed.
SHORT = ("train.torch_compile=false", "train.save_steps=0", "data.cache=false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RUN, default=RUN)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--again", action="store_true", help="what is there already too")
    parser.add_argument("--pages", action="store_true", help="only write the pages")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/results", help="for the runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_run(next(task for task in ALL if task.name == options.one), options.seeds[0], options.folder)
        return
    for seed in [] if options.pages else options.seeds:
        for task in (task for task in ALL if task.name in options.only and seed in task.seeds):
            if not options.again and str(seed) in stored().get(task.name, {}):
                continue
            if task.data and not (DATA / task.data).exists():
                print(f"{task.name}: left out, no {DATA / task.data}", flush=True)
                continue
            print(f"{task.name}, seed {seed}", flush=True)
            measure(task, seed, options.folder)
    write_pages()


def stored() -> dict[str, dict[str, Any]]:
    """What was measured: by task, by seed."""
    return json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}


def measure(task: Task, seed: int, folder: Path) -> None:
    """One run in a process of its own; what it came to goes into docs/results.json."""
    command = [sys.executable, str(Path(__file__)), "--one", task.name, "--seeds", str(seed), "--folder", str(folder)]
    log = folder / f"{task.name}.{seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, check=False).returncode
    if code != 0:
        raise SystemExit(f"{task.name}, seed {seed}: exit code {code}, see {log}")
    found = json.loads((folder / f"{task.name}.{seed}.json").read_text(encoding="utf-8"))
    known = stored()
    known.setdefault(task.name, {})[str(seed)] = found
    STORE.write_text(json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"  {task.score}: {found['base'][task.score]:.3f} -> {found['tuned'][task.score]:.3f}", flush=True)


def one_run(task: Task, seed: int, folder: Path) -> None:
    """Trains and scores one task with one seed, and writes what it came to into `folder`."""
    from finetune import device
    from finetune.recipefile import load_recipe
    from finetune.run import Extent, run

    output = folder / f"{task.name}.{seed}"
    settings = [f"seed={seed}", f"output_dir={output}", *SHORT, *task.settings]
    recipe = load_recipe(ROOT / "recipes" / task.recipe, settings)
    began: dict[str, float] = {}
    seen: dict[str, int] = {}
    extent = Extent(
        until="scores",
        entering=lambda part: began.update({part: time.time()}),
        look=lambda when, ready, placement: seen.update({when: len(ready.parts[0].examples)}),
    )
    run(recipe, overwrite=True, extent=extent)
    ended = time.time()
    said = json.loads((output / "scores.json").read_text(encoding="utf-8"))
    scores = [name for one in ALL if one.stored == task.name for name in (one.score, *one.beside)]
    intervals = {
        who: {name: said["intervals"][who].get(name) for name in scores} for who in ("base", "tuned", "difference")
    }
    found = {
        "base": said["scores"]["base"], "tuned": said["scores"]["tuned"], "intervals": intervals,
        "train_rows": seen["start"], "rows": said["intervals"]["rows"][""], "groups": said["intervals"]["groups"][""],
        "steps": recipe.train.max_steps, "batch": recipe.train.global_batch_size,
        "train_s": round(began["scores"] - began["training"], 1), "score_s": round(ended - began["scores"], 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "environment": device.environment() | {"cpu": processor()},
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    (folder / f"{task.name}.{seed}.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(output / "checkpoints", ignore_errors=True)


def processor() -> str:
    """What the CPU calls itself."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
