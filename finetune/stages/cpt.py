"""Continued pre-training: cross-entropy on every token of plain text but the first of a document."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.stages.tokens import TokenStage


class Cpt(TokenStage):
    """Loss = - sum over tokens of log p(token | tokens before it in its document); what a document is: data/documents.py."""

    rows = "text"

    def scores(self, means: Mapping[str, float]) -> dict[str, float]:
        """`mean_logprob`: nats a token, minus the loss; `token_accuracy`: share of tokens that are the most likely one."""
        return {"mean_logprob": -means["loss"], "token_accuracy": means["token_accuracy"]}
