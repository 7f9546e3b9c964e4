"""Held-out rows through the stage's own loss: what it says of a model, in scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from finetune.evaluate.metrics import Scores
from finetune.stages.base import Stage, means
from finetune.stages.batch import on_device
from finetune.step import micro_batches_of, share

if TYPE_CHECKING:
    from finetune.data.items import Item
    from finetune.device import Placement


ROWS = 4  # items of a micro-batch, with their logits


@torch.no_grad()
def measure(
    model: Any,
    stage: Stage,
    items: Sequence[Item],
    start: dict[str, torch.Tensor] | None,
    placement: Placement,
) -> Scores:
    """The stage's scores of the peft model as it is now, on every process the same.

    Args:
        start: as `prepare_for_training` takes it.
    """
    from finetune.model.speed import wrap

    accelerator = placement.accelerator
    wrapped = wrap(model.eval(), start).eval()
    sums: dict[str, torch.Tensor] = {}
    with placement.autocast(), torch.compiler.set_stance("force_eager"):
        batches = micro_batches_of(stage, items, accelerator.num_processes, ROWS, accelerator.process_index)
        share(wrapped, stage, batches, placement)
        for batch in batches:
            batch = on_device(batch, accelerator.device)
            loss = stage.loss(wrapped, batch)
            count = torch.tensor(stage.count(batch), device=loss.value.device)
            for name, value in {"loss": loss.value, **loss.sums, "count": count}.items():
                sums[name] = sums.get(name, 0) + value.to(placement.sum_dtype)
    wrapped.release()
    totals = accelerator.reduce(torch.stack([sums[name] for name in sums]), reduction="sum").tolist()
    return stage.scores(means(dict(zip(sums, totals, strict=True))))
