"""Reward models: a score head trained so that the better of two answers scores higher (Bradley-Terry), by aspects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from finetune.data.aspects import UNSAID
from finetune.data.chat import ChatEncoder
from finetune.data.encode import encode_items
from finetune.data.items import Pair
from finetune.data.rows import Sample
from finetune.recipe_data import DataSection
from finetune.recipe_stages import RewardSection
from finetune.stages.base import Batch, LossSum
from finetune.stages.batch import collate_rows


class Reward:
    """Loss = sum over pairs, and over the aspects that a pair speaks of, of weight * Bradley-Terry loss.

    A pair counts once, whether it speaks of one aspect or of all: the mean is over pairs, and an aspect that a pair is
    silent on adds nothing to it. So what a pair adds depends on that pair alone, and a batch can be split any way.
    """

    unit = "pairs"

    def __init__(
        self, encoder: ChatEncoder, data: DataSection, settings: RewardSection, pad_to_multiple_of: int = 1
    ) -> None:
        self.encoder = encoder
        self.data = data
        self.settings = settings
        self.pad_to_multiple_of = pad_to_multiple_of
        self.names = tuple(settings.aspects)
        self.weights = tuple(settings.aspects.values()) or (1.0,)

    def encode(self, samples: Sequence[Sample]) -> list[Pair]:
        return encode_items(self.encoder, self.data, "preference", samples)

    def collate(self, items: Sequence[Pair]) -> Batch:
        """All chosen answers, then all rejected ones, as rows filled up on the right.

        Returns:
            `input_ids`, `attention_mask`: (2 B, T); `last`: (2 B,) where each row's last token is; `said`: (B, K), 1 where
            the chosen answer is better in the aspect, 0 where the rejected one is, 0.5 for a tie, UNSAID; `margin`: (B, K);
            `pairs`: (B,) true but for blank ones, which say nothing; `tokens`: () real tokens.
        """
        rows = [*(item.chosen for item in items), *(item.rejected for item in items)]
        batch = collate_rows(rows, self.encoder.tokenizer.pad_token_id, self.pad_to_multiple_of)
        marks = torch.tensor([item.marks for item in items])  # (B, 2 K)
        pairs = torch.tensor([item.chosen.trained > 0 for item in items])
        said, margin = marks.chunk(2, dim=1)
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "last": batch["attention_mask"].sum(1) - 1,
            "said": said.masked_fill(~pairs[:, None], UNSAID),
            "margin": margin,
            "pairs": pairs,
            "tokens": batch["tokens"],
        }

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return int(batch["pairs"].sum())

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        rewards = model(batch["input_ids"], batch["attention_mask"], batch["last"])  # (2 B, K)
        chosen, rejected = rewards.chunk(2)
        losses = pair_losses(chosen, rejected, batch["said"], batch["margin"], self.settings.center_rewards_coefficient)
        value = (losses * losses.new_tensor(self.weights)).sum()
        return LossSum(value, self._sums(chosen.detach(), rejected.detach(), batch["said"]))

    def scores(self, means: Mapping[str, float]) -> dict[str, float]:
        """Accuracy: how often the better answer has the higher reward, equal ones counting half; of all, and by aspect."""
        return {name: means[name] for name in self.settings.held_out_scores}

    def _sums(self, chosen: torch.Tensor, rejected: torch.Tensor, said: torch.Tensor) -> dict[str, torch.Tensor]:
        """Over the pairs that are decided: accuracy and margin; over those that say anything: the mean reward."""
        gap = (chosen - rejected) * (2 * said - 1)  # (B, K), above 0 where the better answer scores higher
        decided, spoken = (said == 0) | (said == 1), said != UNSAID
        right = ((gap > 0) + 0.5 * (gap == 0)) * decided
        parts = {
            "accuracy": (right, decided),
            "margin": (gap * decided, decided),
            "mean_reward": ((chosen + rejected) / 2 * spoken, spoken),
        }
        sums: dict[str, torch.Tensor] = {}
        for name, (values, counted) in parts.items():
            sums |= {name: values.sum(), f"{name}:count": counted.sum()}
            for index, aspect in enumerate(self.names):
                sums[f"{name}/{aspect}"] = values[:, index].sum()
                sums[f"{name}/{aspect}:count"] = counted[:, index].sum()
        return sums


def pair_losses(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    said: torch.Tensor,
    margin: torch.Tensor,
    center_rewards_coefficient: float | None = None,
) -> torch.Tensor:
    """(B, K): -p log sigmoid(d - m) - (1 - p) log sigmoid(-d - m), with d the reward of `chosen` less that of `rejected`.

    The Bradley-Terry model (1952) with p = 1 is equation 1 of Ouyang et al. 2022 (arXiv 2203.02155); the margin m is
    that of Touvron et al. 2023 (arXiv 2307.09288, equation 2); the coefficient times the square of the rewards' sum is
    Eisenstein et al. 2023 (arXiv 2312.09244), as TRL has it. 0 where `said` is UNSAID.

    Args:
        chosen, rejected: (B, K) rewards. said: (B, K) p, or UNSAID. margin: (B, K), 0 for ties.
    """
    gap = chosen - rejected
    losses = -said * F.logsigmoid(gap - margin) - (1 - said) * F.logsigmoid(-gap - margin)
    if center_rewards_coefficient is not None:
        losses = losses + center_rewards_coefficient * (chosen + rejected) ** 2
    return losses.masked_fill(said == UNSAID, 0.0)
