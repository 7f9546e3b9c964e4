"""Direct preference optimisation and its relatives: losses of how far the policy moved from its reference on two answers."""

from __future__ import annotations

import torch

from finetune.model.reference import reference
from finetune.recipe_stages import DpoSection
from finetune.stages import preference
from finetune.stages.base import Batch, LossSum
from finetune.stages.pairs import Answers, PairStage, reward_sums, row_logps


class Dpo(PairStage):
    """Loss = sum over pairs of `loss_type` of the pair, plus `rpo_alpha` times the chosen answer's mean NLL."""

    settings: DpoSection

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        settings = self.settings
        before = self.reference_logps(model, batch)[batch["pairs"]]  # (P', 2)
        now = self.answers(model, batch)
        chosen, rejected = now.chosen - before[:, 0], now.rejected - before[:, 1]  # (P',) log-ratios
        losses = self._losses(now, chosen, rejected)
        sums = reward_sums(now, settings.beta * chosen, settings.beta * rejected)
        sums |= {"logps/chosen": now.chosen.detach().sum(), "logps/rejected": now.rejected.detach().sum()}
        if settings.rpo_alpha:
            # Per answer and not per token of the batch, as Pang et al. 2024 (arXiv 2404.19733) have it: so the sum
            # over pairs does not depend on which pairs share a micro-batch.
            nll = -now.mean_chosen
            losses = losses + settings.rpo_alpha * nll
            sums["nll_loss"] = nll.detach().sum()
        return LossSum(losses.sum(), sums)

    def reference_logps(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """(P, 2) log-probabilities of chosen and rejected under the reference: out of the batch, or computed."""
        if "reference" in batch:
            logps = batch["reference"]
        else:
            with reference(model) as policy:
                logps = row_logps(policy, batch, 2 * len(batch["real"]))
        return logps.view(2, -1).T

    def _losses(self, now: Answers, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        """(P',) from the log-ratios of the answers."""
        settings = self.settings
        margin = chosen - rejected
        mean_margin = chosen / now.chosen_length - rejected / now.rejected_length
        match settings.loss_type:
            case "sigmoid":
                return preference.sigmoid(margin, settings.beta, settings.label_smoothing)
            case "sigmoid_norm":
                return preference.sigmoid(mean_margin, settings.beta, settings.label_smoothing)
            case "hinge":
                return preference.hinge(margin, settings.beta)
            case "ipo":
                return preference.ipo(mean_margin, settings.beta)
