"""The loop: one for all stages and devices. Batches are a function of (seed, step); sums are divided once per step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from finetune import engine
from finetune.data.chat import IGNORED, Example
from finetune.device import Placement
from finetune.errors import RecipeError
from finetune.log import Log
from finetune.recipe import TrainSection
from finetune.stages.base import Batch, Stage


@dataclass(frozen=True)
class Plan:
    """How a global batch falls on processes and micro-batches. All sizes in sequences."""

    global_batch: int
    processes: int
    micro_batch: int
    accumulation: int
    steps: int

    def line(self) -> str:
        return (
            f"{self.steps} steps of {self.global_batch} sequences = {self.processes} process(es) x "
            f"{self.accumulation} x micro-batch of {self.micro_batch}"
        )


def plan(section: TrainSection, examples: int, processes: int, auto_micro_batch: int) -> Plan:
    """The batch arithmetic.

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
    per_epoch = math.ceil(examples / whole)
    steps = section.max_steps or max(1, round((section.num_train_epochs or 0) * per_epoch))
    return Plan(whole, processes, micro, share // micro, steps)


def batch_indices(seed: int, step: int, examples: int, global_batch: int) -> list[int]:
    """Which examples make step `step` (from 0): a slice of the epoch's permutation, the last one of an epoch short."""
    epoch, position = divmod(step, math.ceil(examples / global_batch))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(examples, generator=generator).tolist()
    return order[position * global_batch : (position + 1) * global_batch]


def learning_rate(section: TrainSection, step: int, steps: int) -> float:
    """Rate of step `step` (from 0): linear warm-up, then cosine or linear decay to 0, or constant."""
    warmup = round(section.warmup_ratio * steps)
    if step < warmup:
        return section.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    shape = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    return section.learning_rate * shape[section.lr_scheduler_type]


def train(
    model: torch.nn.Module,
    stage: Stage,
    examples: Sequence[Example],
    section: TrainSection,
    layout: Plan,
    placement: Placement,
    seed: int,
    log: Log,
) -> dict[str, Any]:
    """Trains the model's trainable parameters in place.

    Args:
        model: called by the stage's loss; its trainable parameters are float32.
        examples: the same list on every process.
        layout: how the global batch falls on the processes.

    Returns:
        Totals for the manifest: steps, tokens, trained tokens, seconds, last loss.

    Raises:
        RecipeError: the loss or a gradient is not finite; the parameters are those before that step, and the message
            names the rows of the batch.
    """
    accelerator = placement.accelerator
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=section.learning_rate,
        betas=(section.adam_beta1, section.adam_beta2),
        eps=section.adam_epsilon,
        weight_decay=section.weight_decay,
    )
    model, optimizer = engine.prepare(placement, model, optimizer)
    model.train()
    torch.manual_seed(seed + accelerator.process_index)  # dropout
    totals: dict[str, Any] = {"steps": layout.steps, "tokens": 0, "trained_tokens": 0, "skipped_steps": 0}
    window: list[dict[str, float]] = []
    started = window_started = time.perf_counter()
    for step in log.track(range(layout.steps), layout.steps, "training"):
        chosen = [examples[index] for index in batch_indices(seed, step, len(examples), layout.global_batch)]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(section, step, layout.steps)
        sums = _step(model, optimizer, stage, chosen, layout, section.max_grad_norm, placement)
        window.append(sums)
        totals["tokens"] += int(sums["tokens"])
        totals["trained_tokens"] += int(sums["count"])
        totals["skipped_steps"] += sums["count"] == 0
        if (step + 1) % section.logging_steps == 0 or step + 1 == layout.steps:
            now = time.perf_counter()
            values = _log_values(window, now - window_started, learning_rate(section, step, layout.steps), placement)
            totals["loss"] = values["loss"]
            log.metrics(step + 1, values, _line(step + 1, layout.steps, values))
            window, window_started = [], time.perf_counter()
    accelerator.free_memory()  # accelerate's hold on DDP, which would outlive the process group
    return totals | {"seconds": round(time.perf_counter() - started, 1)}


def _step(
    model: torch.nn.Module,
    optimizer: Any,
    stage: Stage,
    chosen: Sequence[Example],
    layout: Plan,
    max_grad_norm: float,
    placement: Placement,
) -> dict[str, float]:
    """One optimizer step over a global batch; sums over all processes."""
    accelerator = placement.accelerator
    micro_batches = _micro_batches(stage, chosen, layout, accelerator.process_index)
    counted = torch.tensor([[stage.count(batch), int(batch["tokens"])] for batch in micro_batches]).sum(0)
    count, tokens = accelerator.reduce(counted.to(accelerator.device), reduction="sum").tolist()
    sums: dict[str, torch.Tensor] = {}
    for index, batch in enumerate(micro_batches):
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        last = index + 1 == len(micro_batches)
        with engine.micro_batch(placement, model, last):
            with placement.autocast():
                loss = stage.loss(model, batch)
            # Gradients are averaged over processes: times their number makes it the sum again.
            engine.backward(placement, model, loss.value * (layout.processes / max(1, count)))
        for name, value in ({"loss": loss.value.detach()} | loss.sums).items():
            sums[name] = sums.get(name, 0) + value.double()
    grad_norm = engine.clip_gradients(placement, model, max_grad_norm)
    local = torch.stack([sums[name] for name in sums])
    totals = accelerator.reduce(local, reduction="sum").tolist()
    if not (math.isfinite(grad_norm) and all(math.isfinite(total) for total in totals)):
        rows = ", ".join(example.where for example in chosen[:8])
        raise RecipeError(
            f"the loss or a gradient is not finite (loss sum {totals[0]}, gradient norm {grad_norm}); nothing "
            f"of this step was applied; its rows: {rows}{', ...' if len(chosen) > 8 else ''}"
        )
    # Without a trained token there is no gradient, but momentum and weight decay would still move weights.
    engine.step(placement, model, optimizer, apply=count > 0)
    return dict(zip(sums, totals, strict=True)) | {
        "count": count,
        "tokens": tokens,
        "grad_norm": grad_norm,
    }


def _micro_batches(stage: Stage, chosen: Sequence[Example], layout: Plan, process: int) -> list[Batch]:
    """This process's part of a global batch, rows of like length together; every process gets as many micro-batches.

    A process without rows for one of them (the short last batch of an epoch) gets a row with nothing to train on: its
    loss is 0 and it still takes part in the exchange of gradients.
    """
    by_length = sorted(chosen, key=lambda example: len(example.ids), reverse=True)
    share = by_length[process :: layout.processes]
    count = math.ceil(math.ceil(len(chosen) / layout.processes) / layout.micro_batch)
    groups = [share[i * layout.micro_batch : (i + 1) * layout.micro_batch] for i in range(count)]
    blank = replace(by_length[-1], labels=(IGNORED,) * len(by_length[-1].labels))
    return [stage.collate(group or [blank]) for group in groups]


def _line(step: int, steps: int, values: dict[str, float]) -> str:
    return (
        f"step {step:>{len(str(steps))}}/{steps}  loss {values['loss']:.4f}  lr {values['learning_rate']:.2e}  "
        f"grad norm {values['grad_norm']:.2f}  {values['tokens_per_second']:.0f} tokens/s "
        f"({values['trained_tokens_per_second']:.0f} trained)  peak {values['peak_memory_gib']:.2f} GiB"
    )


def _log_values(window: list[dict[str, float]], seconds: float, rate: float, placement: Placement) -> dict[str, float]:
    """Means over the steps since the last line; memory in GiB, peak so far."""
    count = max(1.0, sum(step["count"] for step in window))
    means = {
        name: sum(step[name] for step in window) / count
        for name in window[0]
        if name not in ("count", "tokens", "grad_norm")
    }
    return means | {
        "learning_rate": rate,
        "grad_norm": max(step["grad_norm"] for step in window),
        "tokens_per_second": sum(step["tokens"] for step in window) / seconds,
        "trained_tokens_per_second": count / seconds,
        "peak_memory_gib": placement.device.peak_memory() / 2**30,
    }
