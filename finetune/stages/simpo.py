"""Simple preference optimisation: the chosen answer likelier a token than the other by a margin, without reference."""

from __future__ import annotations

import torch

from finetune.recipe_stages import SimpoSection
from finetune.stages.base import Batch, LossSum
from finetune.stages.pairs import PairStage, reward_sums
from finetune.stages.preference import simpo


class Simpo(PairStage):
    """Loss = sum over pairs of - log sigmoid(beta * (mean chosen - mean rejected) - gamma). Meng et al. 2024, equation 6."""

    settings: SimpoSection

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        beta, gamma = self.settings.beta, self.settings.gamma
        now = self.answers(model, batch)
        chosen, rejected = now.mean_chosen, now.mean_rejected  # (P',)
        sums = reward_sums(now, beta * chosen, beta * rejected)
        sums |= {"logps/chosen": chosen.detach().sum(), "logps/rejected": rejected.detach().sum()}
        return LossSum(simpo(chosen, rejected, beta, gamma).sum(), sums)
