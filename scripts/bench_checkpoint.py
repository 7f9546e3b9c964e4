"""What checkpoints cost: the store alone, and a whole run with and without them.

    python scripts/bench_checkpoint.py                                     # the store: 10 MB and 300 MB
    python scripts/bench_checkpoint.py --recipe recipes/meteorology/metar_decode.yaml --repeats 3 \
        --set evaluate.rows=4 --set gate.better_than_base=false --set 'gate.min={}'

Runs take turns (with, without, with, ...), each in a process and a folder of its own; the table has the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZES = (
    10,
    60,
    300,
)  # MB: a small adapter with AdamW's state, that of the METAR recipe, and one of some billion parameters
WAYS = {"without": "train.save_steps=0", "every 50 steps": "train.save_steps=50"}
Result = dict[str, float]


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def store_costs(size: int, folder: Path) -> Result:
    """Seconds for a checkpoint of `size` MB: an adapter (a third) and both moments of AdamW, 64 parameters.

    `again` replaces the same step; `newest` is what a start costs; `files` are the tensors' files alone, no store.
    """
    import torch

    from finetune.checkpoint.store import Store
    from finetune.checkpoint.tensors import load_tensors, save_tensors
    from finetune.fullstate import full_optimizer, full_tensors, load_full_optimizer

    each = size * 1_000_000 // 4 // 3 // 64
    model = torch.nn.Module()
    model.base_model = torch.nn.ParameterList([torch.randn(each) for _ in range(64)])
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn(each)
    optimizer.step()
    copied: dict[str, torch.Tensor] = {}
    result = {"copy": timed(lambda: copied.update(full_optimizer(model, optimizer)))}

    def fill(place: Path) -> None:
        save_tensors(place / "adapter_model.safetensors", full_tensors(model))
        save_tensors(place / "optimizer.safetensors", copied)

    (folder / "files").mkdir()
    result["files"] = timed(lambda: fill(folder / "files"))
    store = Store(folder / "checkpoints", keep=1)
    result["write"] = timed(lambda: store.write(50, {}, fill))
    result["again"] = timed(lambda: store.write(50, {}, fill))
    result["rotate"] = timed(lambda: store.write(100, {}, fill))  # and step 50 goes
    checkpoint = store.newest()[0]
    assert checkpoint is not None
    result["bytes"] = sum(file.stat().st_size for file in checkpoint.folder.iterdir())
    result["newest"] = timed(store.newest)
    optimizer_file = checkpoint.folder / "optimizer.safetensors"
    result["load"] = timed(lambda: load_full_optimizer(model, optimizer, load_tensors(optimizer_file)))
    return result


def measure_store(repeats: int, parent: Path | None) -> str:
    columns = ("copy", "files", "write", "again", "rotate", "newest", "load")
    lines = [f"| checkpoint | {' | '.join(f'{name}, s' for name in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for size in SIZES:
        runs = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory(dir=parent) as folder:
                runs.append(store_costs(size, Path(folder)))
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        values = " | ".join(f"{medians[name]:.3f}" for name in columns)
        lines.append(f"| {medians['bytes'] / 1e6:.1f} MB | {values} |")
    return "\n".join(lines)


def run_once(recipe: Path, settings: list[str], parent: Path | None) -> Result:
    """Seconds of one run: the whole process, and its loop as the bundle's manifest has it."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        output = Path(folder) / "run"
        command = [sys.executable, "-m", "finetune.cli", "train", str(recipe)]
        for setting in [*settings, f"output_dir={output}"]:
            command += ["--set", setting]
        start = time.perf_counter()
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        wall = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"the run failed ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        manifest = json.loads((output / "bundle/MANIFEST.json").read_text(encoding="utf-8"))
        return {"wall": wall, "loop": manifest["training"]["seconds"], "steps": manifest["training"]["steps"]}


def measure_runs(recipe: Path, settings: list[str], repeats: int, parent: Path | None) -> str:
    runs: dict[str, list[Result]] = {way: [] for way in WAYS}
    for number in range(repeats):
        order = list(WAYS) if number % 2 == 0 else list(reversed(WAYS))  # neither way always comes first
        for way in order:
            runs[way].append(run_once(recipe, [*settings, WAYS[way]], parent))
            print(f"{way}: {runs[way][-1]}", file=sys.stderr)
    lines = ["| checkpoints | loop, s | whole run, s | steps |", "|---|---|---|---|"]
    medians = {way: {name: statistics.median(run[name] for run in runs[way]) for name in runs[way][0]} for way in WAYS}
    for way, values in medians.items():
        lines.append(f"| {way} | {values['loop']:.1f} | {values['wall']:.1f} | {values['steps']:.0f} |")
    without, with_them = medians.values()
    cost = {name: (with_them[name] / without[name] - 1) * 100 for name in ("loop", "wall")}
    spread = (max(run["wall"] for run in runs["without"]) / min(run["wall"] for run in runs["without"]) - 1) * 100
    lines += ["", f"Checkpoints add {cost['loop']:+.1f} % to the loop and {cost['wall']:+.1f} % to the whole run; runs "
              f"without them differ by {spread:.1f} % among each other."]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, help="a run to measure; without it the store alone is")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    given = parser.parse_args()
    print(
        measure_runs(given.recipe, given.set, given.repeats, given.folder)
        if given.recipe
        else measure_store(given.repeats, given.folder)
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
