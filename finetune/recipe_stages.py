"""The recipe's sections of single stages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune.recipe import Section

AspectName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class RewardSection(Section):
    """A score head trained on pairs (Bradley-Terry). `aspects`: name -> weight of its loss; empty is one score.

    Rows say in the column `aspects_column` which answer is better in which aspect, and in `margin_column` by how much.
    `center_rewards_coefficient` keeps the two rewards of a pair around 0.
    """

    aspects: dict[AspectName, Annotated[float, Field(gt=0, strict=False)]] = Field(default_factory=dict)
    aspects_column: str = "aspects"
    margin_column: str = "margin"
    center_rewards_coefficient: float | None = Field(None, gt=0)
