"""What the reference policy says of every answer, computed once before training and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from finetune import engine
from finetune.checkpoint.facts import digest
from finetune.data.items import Labelled, Pair
from finetune.errors import TrainingError
from finetune.schedule import batch_indices
from finetune.stages.batch import on_device
from finetune.step import deal
from finetune.stop import Preempted

if TYPE_CHECKING:
    from finetune.train import Training

FORMAT = 1  # of the files
KEEP = 16  # files
# Of a run's facts (checkpoint/facts.py), those that the reference depends on; with a starting adapter `lora.` too.
DEPENDS_ON = ("stage", "model.", "initial LoRA weights", "starting adapter")

Item = Pair | Labelled


@dataclass(frozen=True)
class ReferenceCache:
    """Where the numbers are kept, and the facts of the run that they depend on are among (see DEPENDS_ON)."""

    folder: Path
    facts: Mapping[str, Any]


class Referenced(Sequence[Item]):
    """Items whose parts have the reference's log-probability as their last mark.

    Args:
        logps: (items, 2) float32, in nats; nan for items that are never asked for.
    """

    def __init__(self, items: Sequence[Any], logps: np.ndarray) -> None:
        self.items = items
        self.logps = logps

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        first, second = self.logps[index].tolist()
        return self.items[index].marked(first, second)

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))


def with_reference(model: torch.nn.Module, this: Training) -> Training:
    """The training with the reference's log-probabilities in its items, where it has a cache for them.

    They are read from there, or computed here and put there. The main process does so; the others get the numbers
    from it, so that they need no disk in common.

    Args:
        model: as prepared for training; what it has learnt so far makes no difference.

    Raises:
        TrainingError: a log-probability is not finite, with its row.
        Preempted: told to stop.
    """
    if this.reference is None:
        return this
    places = _drawn(this)
    if len(places) == len(this.examples):
        examples = _referenced(this.examples, "training rows", model, this, this.reference)
    else:
        some = _referenced([this.examples[i] for i in places], "training rows", model, this, this.reference)
        logps = np.full((len(this.examples), 2), np.nan, np.float32)
        logps[places] = some.logps
        examples = Referenced(this.examples, logps)
    looks = this.section.eval_steps > 0
    held_out = _referenced(this.held_out, "held-out rows", model, this, this.reference) if looks else this.held_out
    return replace(this, examples=examples, held_out=held_out)


def _drawn(this: Training) -> list[int]:
    """Which examples the run's steps draw: all of them from one epoch on."""
    rows, layout = len(this.examples), this.layout
    if layout.steps >= -(-rows // layout.global_batch):
        return list(range(rows))
    return sorted(i for step in range(layout.steps) for i in batch_indices(this.seed, step, rows, layout.global_batch))


def _referenced(
    items: Sequence[Any], what: str, model: torch.nn.Module, this: Training, cache: ReferenceCache
) -> Referenced:
    accelerator = this.placement.accelerator
    file = cache.folder / f"{_key(items, cache.facts)}.npz"
    known = _read(file, len(items)) if accelerator.is_main_process else None
    found = torch.tensor(int(known is not None), device=accelerator.device)
    hit = bool(accelerator.reduce(found, reduction="sum").item())
    if hit:
        own = torch.zeros(len(items), 2) if known is None else torch.from_numpy(known)
        logps = accelerator.reduce(own.to(accelerator.device), reduction="sum").cpu()
    else:
        logps = _computed(items, model, this)
        wrong = (~logps.isfinite().all(1)).nonzero()[:5, 0].tolist()
        if wrong:
            rows = ", ".join(items[i].where for i in wrong)
            raise TrainingError(f"the reference's log-probability is not finite; rows: {rows}")
        if accelerator.is_main_process:
            _write(file, logps.numpy())
    this.log.say(
        f"reference: log-probabilities of {len(items)} {what}, {'from' if hit else 'now in'} the cache: {file}"
    )
    return Referenced(items, logps.numpy())


def _computed(items: Sequence[Any], model: torch.nn.Module, this: Training) -> torch.Tensor:
    """(items, 2) float32 on the CPU, the same on every process; dealt as the items of a step are."""
    accelerator, layout = this.placement.accelerator, this.layout
    stage: Any = this.stage  # with `reference_logps(model, batch)`, (B, 2): of a stage whose section has the key
    lengths = [item.length for item in items]
    shortest = items[lengths.index(min(lengths))]
    logps = torch.zeros(len(items), 2, device=accelerator.device)
    for group in deal(lengths, layout.processes, layout.micro_batch, accelerator.process_index, layout.joins_rows):
        if any(engine.sum_on_host(this.placement, torch.tensor([int(this.stop.requested is not None)]))):
            raise Preempted(f"{this.stop.requested or 'a signal to another process'} before the first step")
        batch = stage.collate([items[i] for i in group] or [shortest.blank()])
        with this.placement.autocast():
            values = stage.reference_logps(model, on_device(batch, accelerator.device))
        if group:
            logps[group] = values
    return accelerator.reduce(logps, reduction="sum").cpu()


def _key(items: Sequence[Item], facts: Mapping[str, Any]) -> str:
    """sha256 of all that the numbers depend on."""
    told = {name: value for name, value in facts.items() if name.startswith(DEPENDS_ON)}
    if "starting adapter" in facts:
        told |= {name: value for name, value in facts.items() if name.startswith("lora.")}
    mismatched = [item.mismatched for item in items if isinstance(item, Labelled)]
    whole = [FORMAT, told, digest(items), digest(mismatched)]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


def _read(file: Path, items: int) -> np.ndarray | None:
    """(items, 2) float32; None where there is no such file, or a broken one (its checksum is looked at)."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            logps = stored["logps"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    if logps.shape != (items, 2) or logps.dtype != np.float32:
        return None
    os.utime(file)  # used now
    return logps


def _write(file: Path, logps: np.ndarray) -> None:
    """Whole or not at all; the files that were not used for longest are removed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{secrets.token_hex(4)}.npz")
    try:
        np.savez(draft, logps=logps)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    for old in sorted(file.parent.glob("[!.]*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)[KEEP:]:
        old.unlink(missing_ok=True)
