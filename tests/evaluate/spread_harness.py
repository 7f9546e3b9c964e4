"""Run under torchrun by test_harness.py: the tasks of a folder asked of the tiny model; the first process prints its scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lm_eval.tasks import TaskManager

from finetune.evaluate.harness_tasks import _loaded
from finetune.recipe_harness import LmEvalSection
from tests.evaluate.test_harness import placement_of, scored, tuned_llama

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    section = LmEvalSection(tasks=("own_choose", "own_say"), include_path=folder, num_fewshot=2, batch_size=5)
    tasks = _loaded(section, TaskManager(include_path=str(folder), include_defaults=False))
    found = scored(tuned_llama(), section, tasks, placement_of())
    if found is not None:
        print(json.dumps([found.scores, found.rows]))
