"""One optimizer step over a global batch: sums over micro-batches and processes, divided once by the global count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune import engine
from finetune.data.items import Item
from finetune.device import Placement
from finetune.schedule import Plan
from finetune.stages.base import Batch, Sharing, Stage, means


@dataclass(frozen=True)
class Outcome:
    """What a step came to, over all processes.

    Attributes:
        sums: of the loss and the stage's other numbers, with `count` (trained items), `tokens` and `grad_norm`.
        finite: false when the loss or a gradient is not; then nothing was applied.
    """

    sums: dict[str, float]
    finite: bool


@dataclass(frozen=True)
class Halt:
    """Asked for before the step began, by some process: `stop` (a signal), `failed` (a checkpoint's writer)."""

    stop: bool
    failed: bool


def take_step(
    model: torch.nn.Module,
    optimizer: Any,
    stage: Stage,
    chosen: Sequence[Item],
    layout: Plan,
    max_grad_norm: float,
    placement: Placement,
    wishes: tuple[bool, bool],
) -> Outcome | Halt:
    """Forward, backward and update; or Halt, on all processes alike, when one of them wishes it.

    Args:
        chosen: the examples of the global batch, the same on every process.
        wishes: this process's (stop, failed); they travel with the counts, so that agreeing costs no message more.
    """
    accelerator = placement.accelerator
    micro_batches = micro_batches_of(stage, chosen, layout.processes, layout.micro_batch, accelerator.process_index)
    counted = torch.tensor([[stage.count(batch), int(batch["tokens"]), 0, 0] for batch in micro_batches]).sum(0)
    counted[2:] += torch.tensor(wishes)
    count, tokens, stop, failed = accelerator.reduce(counted.to(accelerator.device), reduction="sum").tolist()
    if stop or failed:
        return Halt(bool(stop), bool(failed))
    share(model, stage, micro_batches, placement)
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
    totals = accelerator.reduce(torch.stack([sums[name] for name in sums]), reduction="sum").tolist()
    finite = math.isfinite(grad_norm) and all(math.isfinite(total) for total in totals)
    # Without a trained token there is no gradient, but momentum and weight decay would still move weights.
    engine.step(placement, model, optimizer, apply=bool(count) and finite)
    named = dict(zip(sums, totals, strict=True))
    return Outcome(named | {"count": count, "tokens": tokens, "grad_norm": grad_norm}, finite)


def held_out_loss(
    model: torch.nn.Module, stage: Stage, examples: Sequence[Item], layout: Plan, placement: Placement, stop: Any
) -> dict[str, float] | None:
    """Means over all trained items of `examples`, each counted once; None when a signal came to some process.

    Args:
        model: as prepared for training; back in training mode afterwards.
        stop: its `requested` says whether this process was told to stop.
    """
    accelerator = placement.accelerator
    model.eval()
    plain = accelerator.unwrap_model(model)  # DDP's own forward would exchange buffers
    sums: dict[str, torch.Tensor] = {}
    batches = micro_batches_of(stage, examples, layout.processes, layout.micro_batch, accelerator.process_index)
    share(plain, stage, batches, placement)
    with torch.no_grad(), placement.autocast():
        for batch in batches:
            told = torch.tensor(int(stop.requested is not None), device=accelerator.device)
            if accelerator.reduce(told, reduction="sum").item():
                break
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            loss = stage.loss(plain, batch)
            values = {"loss": loss.value, **loss.sums, "count": torch.tensor(stage.count(batch)).to(loss.value.device)}
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value.double()
        else:
            totals = accelerator.reduce(torch.stack([sums[name] for name in sums]), reduction="sum").tolist()
            named = dict(zip(sums, totals, strict=True))
            engine.let_go(model)
            model.train()
            return {f"eval_{name}": value for name, value in means(named).items()}
    engine.let_go(model)
    model.train()
    return None


def share(model: torch.nn.Module, stage: Stage, batches: Sequence[Batch], placement: Placement) -> None:
    """What the stage's loss needs of the whole global batch, into each of this process's micro-batches (see `Sharing`)."""
    if not isinstance(stage, Sharing):
        return
    accelerator = placement.accelerator
    with torch.no_grad(), placement.autocast():
        parts = [stage.shared(model, {n: t.to(accelerator.device) for n, t in batch.items()}) for batch in batches]
    total = accelerator.reduce(torch.stack(parts).double().sum(0), reduction="sum")
    for batch in batches:
        batch["shared"] = total


def micro_batches_of(
    stage: Stage, chosen: Sequence[Item], processes: int, micro_batch: int, process: int
) -> list[Batch]:
    """This process's part of a global batch, rows of like length together; every process gets as many micro-batches.

    A process without rows for one of them (the short last batch of an epoch) gets a row with nothing to train on: its
    loss is 0 and it still takes part in the exchange of gradients.
    """
    by_length = sorted(chosen, key=lambda item: item.length, reverse=True)
    share = by_length[process::processes]
    count = math.ceil(math.ceil(len(chosen) / processes) / micro_batch)
    groups = [share[i * micro_batch : (i + 1) * micro_batch] for i in range(count)]
    return [stage.collate(group or [by_length[-1].blank()]) for group in groups]
