"""Several stages in one run: every global batch holds items of each part, and each part has its own loss.

The loss of a step is the sum over parts p of

    loss_weight_p * (items of p in the batch / items of the batch) * (loss sum of p / count of p),

where the count is the part's own, over all micro-batches and processes: tokens are never added to pairs. So a part
counts by its share of the rows, however long they are, and a part alone is its stage. (Multi-task learning by batches of
several tasks with a loss each: Liu et al., arXiv 1901.11504, section 3.2.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.mixed import Mixed
from finetune.shares import shares
from finetune.stages.base import Stage


@dataclass(frozen=True)
class MixturePart:
    """One of the stages. `name` stands before the names of its numbers; `weight` is its share of the items."""

    name: str
    stage: Stage
    weight: float
    loss_weight: float


@dataclass(frozen=True)
class Share:
    """What one stage gets of a batch.

    Attributes:
        weight: what its mean loss is multiplied by.
        prefix: of the names of its numbers; empty where the stage is alone.
    """

    stage: Stage
    items: Sequence[Any]
    weight: float
    prefix: str


class Mixture:
    """The parts of a run; the loop asks it which stage has which items, and never for a loss.

    Attributes:
        unit: what all parts count, or "items" where they count different things.
    """

    def __init__(self, parts: Sequence[MixturePart]) -> None:
        self.parts = tuple(parts)
        units = {part.stage.unit for part in parts}
        self.unit = units.pop() if len(units) == 1 else "items"

    def shares(self, items: Sequence[Mixed]) -> list[Share]:
        """Of a global batch: each part that has items in it, with the share of the items that these are."""
        return [
            Share(part.stage, own, part.loss_weight * (len(own) / len(items)), f"{part.name}/")
            for number, part in enumerate(self.parts)
            if (own := [mixed.item for mixed in items if mixed.part == number])
        ]

    def held_out_shares(self, items: Sequence[Mixed]) -> list[Share]:
        """Of held-out items: each part with its share by weight, whatever the number of its held-out rows."""
        by_weight = shares([part.weight for part in self.parts])
        return [
            Share(part.stage, own, part.loss_weight * float(by_weight[number]), f"{part.name}/")
            for number, part in enumerate(self.parts)
            if (own := [mixed.item for mixed in items if mixed.part == number])
        ]


def shares_of(stage: Stage | Mixture, items: Sequence[Any]) -> list[Share]:
    """Of a global batch; a stage that is no mixture gets all of it."""
    return stage.shares(items) if isinstance(stage, Mixture) else [Share(stage, items, 1.0, "")]


def held_out_shares_of(stage: Stage | Mixture, items: Sequence[Any]) -> list[Share]:
    """Of held-out items; a stage that is no mixture gets all of them."""
    return stage.held_out_shares(items) if isinstance(stage, Mixture) else [Share(stage, items, 1.0, "")]


def whole_sums(shares: Sequence[Share], counts: Sequence[int], sums: Mapping[str, float]) -> dict[str, float]:
    """The sums of a step with its `loss` and `count`; of a mixture the loss of all parts beside each one's own.

    Args:
        counts: of each share.
        sums: `PREFIXloss`, `PREFIXmetric`, ... of each.

    Returns:
        For a mixture, `loss` over `count` (of all parts) is the loss of the step; every other number has its own count
        beside it (see base.means).
    """
    if not any(share.prefix for share in shares):
        return {**sums, "count": counts[0]}
    count, loss, named = sum(counts), 0.0, {}
    for share, own in zip(shares, counts, strict=True):
        of_part = {name: value for name, value in sums.items() if name.startswith(share.prefix)}
        loss += of_part[f"{share.prefix}loss"] * (share.weight * (count / max(1, own)))
        for name, value in of_part.items():
            named[name] = value
            if not name.endswith(":count") and f"{name}:count" not in of_part:
                named[f"{name}:count"] = own
    return {"loss": loss, **named, "count": count}
