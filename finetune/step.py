"""One optimizer step over a global batch: sums over micro-batches and processes, divided once by the global count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune import engine
from finetune.data.items import Item
from finetune.device import Placement
from finetune.schedule import Plan
from finetune.stages.base import Batch, Sharing, Stage, means
from finetune.stages.batch import on_device
from finetune.stages.mixture import Mixture, Share, held_out_shares_of, shares_of, whole_sums


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
    stage: Stage | Mixture,
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
    shares = shares_of(stage, chosen)
    micro_batches = _micro_batches(shares, layout, accelerator.process_index)
    counted = torch.zeros(len(shares) + 3, dtype=torch.long)  # of each share; tokens; wishes
    for number, batch in micro_batches:
        counted[number] += shares[number].stage.count(batch)
        counted[-3] += batch["tokens"]
    counted[-2:] += torch.tensor(wishes)
    *counts, tokens, stop, failed = engine.sum_on_host(placement, counted)
    if stop or failed:
        return Halt(bool(stop), bool(failed))
    _share_all(model, shares, micro_batches, placement)
    sums: dict[str, torch.Tensor] = {}
    for index, (number, batch) in enumerate(micro_batches):
        of, batch = shares[number], on_device(batch, accelerator.device)
        last = index + 1 == len(micro_batches)
        with engine.micro_batch(placement, model, last):
            with placement.autocast():
                loss = of.stage.loss(model, batch)
            # Gradients are averaged over processes: times their number makes it the sum again.
            scale = layout.processes / max(1, counts[number]) * of.weight
            engine.backward(placement, model, loss.value * scale)
        for name, value in ({"loss": loss.value.detach()} | loss.sums).items():
            sums[of.prefix + name] = sums.get(of.prefix + name, 0) + value.to(placement.sum_dtype)
    norm = engine.clip_gradients(placement, model, max_grad_norm)
    summed = accelerator.reduce(torch.stack([*sums.values()]), reduction="sum")
    # The host waits for the device here, once a step: what is not finite must not be applied.
    *totals, grad_norm = torch.cat([summed, norm.to(summed)[None]]).tolist()
    finite = math.isfinite(grad_norm) and all(math.isfinite(total) for total in totals)
    # Without a trained token there is no gradient, but momentum and weight decay would still move weights.
    engine.step(placement, model, optimizer, apply=any(counts) and finite)
    named = whole_sums(shares, counts, dict(zip(sums, totals, strict=True)))
    return Outcome(named | {"tokens": tokens, "grad_norm": grad_norm}, finite)


def held_out_loss(
    model: torch.nn.Module,
    stage: Stage | Mixture,
    examples: Sequence[Item],
    layout: Plan,
    placement: Placement,
    stop: Any,
) -> dict[str, float] | None:
    """Means over all trained items of `examples`, each counted once; None when a signal came to some process.

    Of a mixture: `eval_loss` of all parts by their weights, and the means of each part under its name.

    Args:
        model: as prepared for training; back in training mode afterwards.
        stop: its `requested` says whether this process was told to stop.
    """
    accelerator = placement.accelerator
    model.eval()
    plain = accelerator.unwrap_model(model)  # DDP's own forward would exchange buffers
    sums: dict[str, torch.Tensor] = {}
    shares = held_out_shares_of(stage, examples)
    batches = _micro_batches(shares, layout, accelerator.process_index)
    _share_all(plain, shares, batches, placement)
    with torch.no_grad(), placement.autocast():
        for number, batch in batches:
            if any(engine.sum_on_host(placement, torch.tensor([int(stop.requested is not None)]))):
                break
            of, batch = shares[number], on_device(batch, accelerator.device)
            loss = of.stage.loss(plain, batch)
            count = torch.tensor(of.stage.count(batch)).to(loss.value.device)
            for name, value in {"loss": loss.value, **loss.sums, "count": count}.items():
                sums[of.prefix + name] = sums.get(of.prefix + name, 0) + value.to(placement.sum_dtype)
        else:
            totals = accelerator.reduce(torch.stack([sums[name] for name in sums]), reduction="sum").tolist()
            named = dict(zip(sums, totals, strict=True))
            engine.let_go(model)
            model.train()
            return {f"eval_{name}": value for name, value in _held_out_means(shares, named).items()}
    engine.let_go(model)
    model.train()
    return None


def _micro_batches(shares: Sequence[Share], layout: Plan, process: int) -> list[tuple[int, Batch]]:
    """This process's micro-batches of all shares, each of one share alone, with its number."""
    return [
        (number, batch)
        for number, of in enumerate(shares)
        for batch in micro_batches_of(
            of.stage, of.items, layout.processes, layout.micro_batch, process, layout.joins_rows
        )
    ]


def _share_all(
    model: torch.nn.Module, shares: Sequence[Share], batches: Sequence[tuple[int, Batch]], placement: Placement
) -> None:
    for number, of in enumerate(shares):
        share(model, of.stage, [batch for other, batch in batches if other == number], placement)


def _held_out_means(shares: Sequence[Share], sums: Mapping[str, float]) -> dict[str, float]:
    """Means by name, with the weighted `loss` of all parts first where there are several."""
    loss = 0.0
    found: dict[str, float] = {}
    for of in shares:
        own = {n.removeprefix(of.prefix): value for n, value in sums.items() if n.startswith(of.prefix)}
        its_means = means(own)
        loss += of.weight * its_means["loss"]
        found |= {f"{of.prefix}{name}": value for name, value in its_means.items()}
    return {"loss": loss} | found


def share(model: torch.nn.Module, stage: Stage, batches: Sequence[Batch], placement: Placement) -> None:
    """What the stage's loss needs of the whole global batch, into each of this process's micro-batches (see `Sharing`)."""
    if not isinstance(stage, Sharing):
        return
    accelerator = placement.accelerator
    with torch.no_grad(), placement.autocast():
        parts = [stage.shared(model, on_device(batch, accelerator.device)) for batch in batches]
    total = accelerator.reduce(torch.stack(parts).to(placement.sum_dtype).sum(0), reduction="sum")
    for batch in batches:
        batch["shared"] = total


def micro_batches_of(
    stage: Stage, chosen: Sequence[Item], processes: int, micro_batch: int, process: int, joins_rows: bool = False
) -> list[Batch]:
    """This process's part of a global batch, rows together as `deal` says; every process gets as many micro-batches.

    A process without rows for one of them (the short last batch of an epoch) gets a row with nothing to train on: its
    loss is 0 and it still takes part in the exchange of gradients.
    """
    groups = deal([item.length for item in chosen], processes, micro_batch, process, joins_rows)
    shortest = min(chosen, key=lambda item: item.length)
    return [stage.collate([chosen[index] for index in group] or [shortest.blank()]) for group in groups]


def deal(
    lengths: Sequence[int], processes: int, micro_batch: int, process: int, joins_rows: bool = False
) -> list[list[int]]:
    """Places of a process's items, micro-batch by micro-batch; empty where there is none left for a micro-batch that other
    processes have.

    Like lengths are together, so that little is filled up. Where rows are joined nothing is: then long ones are with
    short ones, so that no micro-batch needs much more memory than another and no process waits for one.
    """
    by_length = sorted(range(len(lengths)), key=lambda index: lengths[index], reverse=True)
    count = math.ceil(math.ceil(len(lengths) / processes) / micro_batch)
    if not joins_rows:
        share = by_length[process::processes]
        return [share[i * micro_batch : (i + 1) * micro_batch] for i in range(count)]
    places = count * processes
    dealt: list[list[int]] = [[] for _ in range(places)]
    for number, index in enumerate(by_length):  # to and fro: 0 1 2 2 1 0 0 1 2
        turn, place = divmod(number, places)
        dealt[place if turn % 2 == 0 else places - 1 - place].append(index)
    return dealt[process::processes]
