"""Which examples make which step, on which process, at which learning rate: functions of the recipe, without state."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from finetune.errors import RecipeError
from finetune.recipe import TrainSection


@dataclass(frozen=True)
class Plan:
    """How a global batch falls on processes and micro-batches. All sizes in sequences, `per_sample` of each sample."""

    global_batch: int
    processes: int
    micro_batch: int
    accumulation: int
    steps: int
    per_sample: int = 1

    @property
    def drawn(self) -> int:
        """How many samples of the data make a step."""
        return self.global_batch // self.per_sample

    def line(self) -> str:
        return (
            f"{self.steps} steps of {self.global_batch} sequences = {self.processes} process(es) x "
            f"{self.accumulation} x micro-batch of {self.micro_batch}"
        )


def plan(section: TrainSection, examples: int, processes: int, auto_micro_batch: int, per_sample: int = 1) -> Plan:
    """The batch arithmetic.

    Args:
        per_sample: how many sequences a sample that is drawn becomes; a divisor of the global batch.

    Raises:
        RecipeError: a size that does not divide, with the arithmetic.
    """
    whole = section.global_batch_size
    share, rest = divmod(whole, processes)
    if rest:
        raise RecipeError(
            f"train.global_batch_size: {whole} sequences / {processes} processes = {whole / processes:.2f}; "
            f"use a multiple of {processes}"
        )
    micro = section.micro_batch_size
    if micro is None:
        micro = next(size for size in range(min(share, auto_micro_batch), 0, -1) if share % size == 0)
    elif share % micro:
        raise RecipeError(
            f"train.micro_batch_size: {whole} sequences / {processes} processes / {micro} = {share / micro:.2f} "
            f"micro-batches; allowed: {', '.join(str(size) for size in range(1, share + 1) if share % size == 0)}"
        )
    per_epoch = math.ceil(examples * per_sample / whole)
    steps = section.max_steps or max(1, round((section.num_train_epochs or 0) * per_epoch))
    return Plan(whole, processes, micro, share // micro, steps, per_sample)


def batch_indices(seed: int, step: int, examples: int, global_batch: int) -> list[int]:
    """Which examples make step `step` (from 0): a slice of the epoch's permutation, the last one of an epoch short."""
    epoch, position = divmod(step, math.ceil(examples / global_batch))
    return order_of_epoch(seed, epoch, examples)[position * global_batch : (position + 1) * global_batch].tolist()


@lru_cache(maxsize=8)  # of a mixture's parts
def order_of_epoch(seed: int, epoch: int, examples: int) -> torch.Tensor:
    """(examples,) int64: the permutation of one epoch."""
    return torch.randperm(examples, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def step_seed(seed: int, step: int, process: int) -> int:
    """32 bits for everything random in a step (dropout): with it a resumed step needs no saved generator state."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {process}".encode()).digest()[:4], "big")


def learning_rate(section: TrainSection, step: int, steps: int) -> float:
    """Rate of step `step` (from 0): linear warm-up, then cosine or linear decay to 0, or constant."""
    warmup = round(section.warmup_ratio * steps)
    if step < warmup:
        return section.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    shape = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    return section.learning_rate * shape[section.lr_scheduler_type]
