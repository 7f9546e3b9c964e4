"""Supervised fine-tuning: cross-entropy on the assistant's tokens."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from finetune.recipe_stages import SftSection
from finetune.stages.base import Batch, LossSum
from finetune.stages.batch import model_inputs
from finetune.stages.tokens import TokenStage


class Sft(TokenStage):
    """Loss = - sum over trained tokens of log p(token | tokens before it).

    With label smoothing e (arXiv 1512.00567, section 7), in training only, a token's loss is
    (1 - e) * -log p(token) + e * mean over the vocabulary of -log p(v); `nll` is the loss without it.
    """

    settings: SftSection

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        smoothing = self.settings.label_smoothing_factor
        if not smoothing or not model.training:
            plain = super().loss(model, batch)
            return LossSum(plain.value, plain.sums | ({"nll": plain.value.detach()} if smoothing else {}))
        logits, targets = model(*model_inputs(batch)), batch["targets"]  # (N, V), (N,)
        correct = (logits.detach().argmax(-1) == targets).sum()
        with torch.no_grad():
            nll = F.cross_entropy(logits.float(), targets, reduction="sum")
        value = F.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)
        return LossSum(value, {"token_accuracy": correct, "nll": nll})
