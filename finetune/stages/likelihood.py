"""How likely a model finds the references of rows that nobody trains on; what an evaluation's suites measure."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.stages.tokens import TokenStage


class Likelihood(TokenStage):
    """Cross-entropy on the assistant's tokens, as stage sft without label smoothing; never trained."""

    def scores(self, means: Mapping[str, float]) -> dict[str, float]:
        """`mean_logprob`: nats a token, minus the loss; `token_accuracy`: share of tokens that are the most likely one."""
        return {"mean_logprob": -means["loss"], "token_accuracy": means["token_accuracy"]}
