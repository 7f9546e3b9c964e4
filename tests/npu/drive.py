"""A program: jobs one after the other in one process that sees the emulated device, `python -m tests.npu.drive JOBS.json`.

A job is {"recipe": file, "changes": [...]}: a run to its adapter, or, if "whole", to its bundle. It may have "resume", "kill"
(SIGKILL as that step begins), "stop" (SIGTERM, likewise), "soc" (the card's name meanwhile) and "refused" (what the RecipeError
must say). Or it is {"cli": [...]}, a command of finetune. Beside each run's metrics.jsonl goes counts.json: what each step
cost, and the lines that asked for it from the second step on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from finetune.device import quiet_libraries
from finetune.errors import RecipeError
from finetune.stop import Preempted


class Steps:
    """Stands for `take_step`: the counts as each step begins and as the last one ends."""

    def __init__(self, take_step: Any, signals: dict[int | None, int]) -> None:
        self.take_step, self.signals = take_step, signals  # by the step that they come before
        self.begun: list[Counter[Any]] = []
        self.ended: Counter[Any] = Counter()

    def __call__(self, *args: Any) -> Any:
        import torch_npu

        self.begun.append(torch_npu.emulator.sites())
        if len(self.begun) in self.signals:
            os.kill(os.getpid(), self.signals[len(self.begun)])
        outcome = self.take_step(*args)
        self.ended = torch_npu.emulator.sites()
        return outcome

    def told(self) -> dict[str, Any]:
        marks = [*self.begun, self.ended]
        steps = [after - before for before, after in pairwise(marks)]
        kinds = [{kind: sum(n for site, n in step.items() if site.kind == kind) for kind in KINDS} for step in steps]
        later = sum(steps[1:], Counter())
        return {"steps": kinds, "sites": [[*site, times] for site, times in later.most_common()]}


KINDS = ("syncs", "fallbacks", "uploads")


def do(job: dict[str, Any]) -> None:
    import torch_npu

    from finetune.cli import main

    if "cli" in job:
        assert main(job["cli"]) == 0, job
        return
    usual = torch_npu.hardware.SOC
    torch_npu.hardware.SOC = job.get("soc", usual)
    try:
        train(job)
    except Preempted:
        assert "stop" in job
    except RecipeError as error:
        assert "refused" in job and job["refused"] in str(error), error
    else:
        assert not {"refused", "stop"} & job.keys(), job
    torch_npu.hardware.SOC = usual


def train(job: dict[str, Any]) -> None:
    from finetune import train
    from finetune.recipefile import load_recipe
    from finetune.run import Extent, run

    recipe = load_recipe(Path(job["recipe"]), job["changes"])
    plain = train.take_step
    train.take_step = steps = Steps(plain, {job.get("kill"): signal.SIGKILL, job.get("stop"): signal.SIGTERM})  # type: ignore[assignment]
    try:
        run(recipe, resume=job.get("resume"), extent=Extent(until="bundle" if job.get("whole") else "adapter"))
    finally:
        train.take_step = plain
    (recipe.output_dir / "counts.json").write_text(json.dumps(steps.told(), indent=1), encoding="utf-8")


if __name__ == "__main__":
    quiet_libraries()  # as `finetune train` does: torch_npu first
    import torch

    torch.set_num_threads(1)
    for each in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        do(each)
