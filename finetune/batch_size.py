"""The largest micro-batch that fits into memory, found before training so that a run never has to change it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune.data.items import Item
from finetune.device import Placement
from finetune.errors import TrainingError
from finetune.stages.base import Stage
from finetune.stages.batch import on_device


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch, on whatever device, ran out of memory."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text or "out of memory" in text


def find_micro_batch(
    model: torch.nn.Module, stage: Stage, examples: Sequence[Item], share: int, most: int, placement: Placement
) -> int:
    """Forward and backward of the longest examples, fewer each time, until every process gets through.

    Args:
        model: as the stage's loss calls it, not yet prepared for several processes; moved to the device.
        share: sequences of a global batch that fall on one process; only its divisors are tried.
        most: to begin with.

    Raises:
        TrainingError: a single example does not fit.
    """
    from accelerate.utils.memory import clear_device_cache

    accelerator = placement.accelerator
    model.to(accelerator.device)
    longest = sorted(examples, key=lambda item: item.length, reverse=True)[:most]
    for size in range(most, 0, -1):
        if share % size:
            continue
        fits = True
        try:
            batch = on_device(stage.collate(longest[:size]), accelerator.device)
            with placement.autocast():
                loss = stage.loss(model, batch)
            loss.value.backward()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            fits = False
        batch = loss = None  # type: ignore[assignment]
        model.zero_grad(set_to_none=True)
        clear_device_cache(garbage_collection=True)
        fitting = accelerator.reduce(torch.tensor(int(fits), device=accelerator.device), reduction="sum").item()
        if fitting == accelerator.num_processes:
            return size
    raise TrainingError(
        f"train.auto_find_batch_size: not even one example of {longest[0].length} tokens fits into memory; try "
        "train.gradient_checkpointing=true, or a smaller data.max_length"
    )
