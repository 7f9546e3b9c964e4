"""What the launcher has started: rank, number of processes, engine, and the sum of the ranks over all processes."""

from __future__ import annotations

import sys

import torch

from finetune.errors import RecipeError
from tests.equivalence.engine_worker import placement

try:
    here = placement()
except RecipeError as error:
    sys.exit("\n".join(error.problems))
accelerator = here.accelerator
total = accelerator.reduce(torch.tensor(accelerator.process_index), reduction="sum")
line = f"rank {accelerator.process_index} of {accelerator.num_processes}: {here.engine}, ranks sum to {int(total)}\n"
sys.stdout.write(line)  # in one piece: two processes write here
sys.stdout.flush()
accelerator.end_training()
