"""kill -9 at random moments of a run, from its start to its bundle; it is taken up again until it is done."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import write_tiny_recipe
from tests.faults.killed import go_on

SAVING = ("train.save_steps=1", "train.save_total_limit=2", "lora.lora_dropout=0.1", "evaluate.rows=2")
PRELOADED = [
    "torch", "transformers", "peft", "accelerate", "finetune.run", "finetune.train", "finetune.export.bundle",
    "finetune.report.page", "matplotlib.figure", "matplotlib.backends.backend_svg",
]  # fmt: skip


def phase(folder: Path) -> str:
    """Where a kill hit, by what it left behind."""
    if not (folder / "run_state.json").is_file():
        return "before the first step"
    if list(folder.glob(".bundle.partial")):
        return "exporting"
    if list((folder / "checkpoints").glob(".*")):
        return "writing a checkpoint"
    if (folder / "adapter").is_dir():
        return "answering"
    return "training"


@pytest.mark.slow
@pytest.mark.parametrize("kills", [15, pytest.param(50, marks=pytest.mark.long)])
def test_kills(kills, tiny_base, tiny_data, tmp_path):
    """T11 at the level of runs: kills spread over whole runs; each finished adapter has the same bytes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    order = random.Random(5)
    hits: Counter[str] = Counter()
    finished: list[bytes] = []

    def started(folder: Path) -> multiprocessing.process.BaseProcess:
        folder.mkdir(exist_ok=True)
        child = context.Process(target=go_on, args=(write_tiny_recipe(folder, tiny_base, tiny_data), SAVING))
        child.start()
        return child

    whole = started(tmp_path / "whole")
    begun = time.monotonic()
    whole.join()
    length = time.monotonic() - begun
    assert whole.exitcode == 0
    number = 0
    while sum(hits.values()) < kills:
        folder = tmp_path / f"run{number}"
        child = started(folder)
        child.join(order.uniform(0.02, 1.1) * length)
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            hits[phase(folder / "run")] += 1
            continue
        assert child.exitcode == 0
        finished.append((folder / "run/adapter/adapter_model.safetensors").read_bytes())
        number += 1
    last = started(tmp_path / f"run{number}")
    last.join()
    assert last.exitcode == 0
    print(f"{dict(hits)} in {number + 1} runs")
    weights = "run/adapter/adapter_model.safetensors"
    finished.append((tmp_path / f"run{number}" / weights).read_bytes())
    assert set(finished) == {(tmp_path / "whole" / weights).read_bytes()}
    state = json.loads((tmp_path / f"run{number}" / "run/run_state.json").read_text())
    assert state["status"] == "finished"
    assert {"training", "answering", "exporting"} <= hits.keys() or kills < 50
    assert len(hits) > 1
    assert [path for run in tmp_path.glob("*/run") for path in run.rglob(".*")] == []
