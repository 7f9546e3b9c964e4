"""Held-out rows through the stage's own loss: what it says of a model, in scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune.evaluate.metrics import Scores
from finetune.stages.base import Stage, means
from finetune.stages.batch import on_device
from finetune.step import deal, micro_batches_of, share

if TYPE_CHECKING:
    from finetune.data.items import Item
    from finetune.device import Placement


@dataclass(frozen=True)
class Measured:
    """What held-out items come to by their stage's loss.

    Attributes:
        names: of the sums, as stages/base.py has them; `count` among them.
        sums: (items, names), what each item adds to them.
        of_means: the stage's `scores`.
    """

    names: tuple[str, ...]
    sums: np.ndarray
    of_means: Callable[[Mapping[str, Any]], dict[str, Any]]

    @property
    def scores(self) -> Scores:
        """Of all items."""
        return self.of_means(means(dict(zip(self.names, self.sums.sum(0).tolist(), strict=True))))


@torch.no_grad()
def measure(
    model: Any,
    stage: Stage,
    items: Sequence[Item],
    start: dict[str, torch.Tensor] | None,
    placement: Placement,
) -> Measured:
    """The stage's sums of the peft model as it is now, item by item, on every process the same.

    Args:
        start: as `prepare_for_training` takes it.
    """
    from finetune.model.speed import wrap

    accelerator = placement.accelerator
    wrapped = wrap(model.eval(), start).eval()
    dealt = deal([item.length for item in items], accelerator.num_processes, 1, accelerator.process_index)
    own = [place for group in dealt for place in group]
    rows: list[list[torch.Tensor]] = []
    names: tuple[str, ...] = ()
    with placement.autocast(), torch.compiler.set_stance("force_eager"):
        batches = micro_batches_of(stage, items, accelerator.num_processes, 1, accelerator.process_index)
        share(wrapped, stage, batches, placement)
        for batch in batches:
            batch = on_device(batch, accelerator.device)
            loss = stage.loss(wrapped, batch)
            count = torch.tensor(stage.count(batch), device=loss.value.device)
            found = {"loss": loss.value, **loss.sums, "count": count}
            names = tuple(found)
            rows.append([value.to(placement.sum_dtype) for value in found.values()])
    wrapped.release()
    sums = torch.zeros(len(items), len(names), dtype=placement.sum_dtype, device=accelerator.device)
    for place, row in zip(own, rows, strict=False):  # a process may have one row more, of no item
        sums[place] = torch.stack(row)
    return Measured(names, accelerator.reduce(sums, reduction="sum").double().cpu().numpy(), stage.scores)
