"""Odds-ratio preference optimisation: fine-tuning on the chosen answer and telling it from the other, without reference."""

from __future__ import annotations

import torch

from finetune.recipe_stages import OrpoSection
from finetune.stages.base import Batch, LossSum
from finetune.stages.pairs import PairStage, reward_sums
from finetune.stages.preference import log_odds, odds_ratio


class Orpo(PairStage):
    """Loss = sum over pairs of the chosen answer's mean NLL + beta * L_OR. Hong et al. 2024 (arXiv 2403.07691), equation 6.

    The NLL is the mean over the answer's own tokens (equations 2 and 3), so that it is a number of the pair like L_OR and
    their sum does not depend on which pairs share a micro-batch. (TRL takes the mean over all tokens of a micro-batch,
    prompts included: for one pair whose prompt is one token, that is this.)
    """

    settings: OrpoSection

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        beta, now = self.settings.beta, self.answers(model, batch)
        chosen, rejected = now.mean_chosen, now.mean_rejected  # (P',)
        nll, ratio = -chosen, odds_ratio(chosen, rejected)
        sums = reward_sums(now, beta * chosen, beta * rejected)
        sums |= {
            "logps/chosen": chosen.detach().sum(),
            "logps/rejected": rejected.detach().sum(),
            "nll_loss": nll.detach().sum(),
            "log_odds_ratio": -ratio.detach().sum(),
            "log_odds_chosen": (log_odds(chosen) - log_odds(rejected)).detach().sum(),
        }
        return LossSum((nll + beta * ratio).sum(), sums)
