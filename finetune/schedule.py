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
    """How a global batch falls on processes and micro-batches. All sizes in sequences, `per_sample` of each sample.

    `joins_rows`: those of a micro-batch are computed end to end, without filling.
    """

    global_batch: int
    processes: int
    micro_batch: int
    accumulation: int
    steps: int
    per_sample: int = 1
    joins_rows: bool = False

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
        RecipeError: a size that does not divide, with the arithmetic; a schedule that is longer than the run.
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
    warmup, decay = _warmup_and_decay(section, steps)
    if decay < 0 or warmup + decay > steps:
        given = "warmup_ratio" if section.warmup_steps is None else "warmup_steps"
        stable = section.lr_scheduler_type == "warmup_stable_decay"
        falling = f" and {decay} of decay (train.decay_ratio)" if stable else ""
        raise RecipeError(f"train.{given}: {warmup} steps of warm-up{falling} don't fit into {steps} steps")
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


def learning_rate(section: TrainSection, step: int, steps: int, peak: float | None = None) -> float:
    """Rate of step `step` (from 0) of parameters whose rate at the top is `peak`, by default `train.learning_rate`.

    Linear warm-up, whose first step is not at 0 and whose last is at the top; then constant, or from the top down to
    `min_lr_ratio` of it, which the step after the last one would have.
    """
    peak = section.learning_rate if peak is None else peak
    warmup, decay = _warmup_and_decay(section, steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = max(0.0, (step - (steps - decay)) / max(1, decay))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    shape = {"constant": 1.0, "linear": 1 - progress, "cosine": cosine, "warmup_stable_decay": cosine}
    factor = shape[section.lr_scheduler_type]
    return peak * (factor * (1 - section.min_lr_ratio) + section.min_lr_ratio if section.min_lr_ratio else factor)


def _warmup_and_decay(section: TrainSection, steps: int) -> tuple[int, int]:
    """Steps of warm-up, and those at the end in which the rate falls: all the others, or a share of all steps."""
    warmup = round(section.warmup_ratio * steps) if section.warmup_steps is None else section.warmup_steps
    stable = section.lr_scheduler_type == "warmup_stable_decay"
    return warmup, round(section.decay_ratio * steps) if stable else steps - warmup
