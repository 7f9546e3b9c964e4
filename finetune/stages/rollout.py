"""What stage grpo works on: prompts with what their answers are judged by, and answers with what they came to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from finetune.data.chat import Example
from finetune.data.items import OfExample


@dataclass(frozen=True)
class Prompt(OfExample):
    """An item of the data.

    Attributes:
        ids: rendered with the generation prompt.
        example: the whole conversation with the reference answer, as sft would train it.
        task: which of the data's metrics judges answers. tools: on offer in the prompt.
    """

    ids: tuple[int, ...]
    reference: str
    task: str
    example: Example
    tools: tuple[dict[str, Any], ...] = ()

    def blank(self) -> Prompt:
        """The same with nothing to train on."""
        return replace(self, example=self.example.blank())


@dataclass(frozen=True)
class Rollout(OfExample):
    """An answer of the model's own, an item of one step.

    Attributes:
        example: prompt and answer; the answer's tokens are trained.
        finished: whether it came to a stop token.
        scores: one for each of `grpo.rewards`, in their order; None where the row's metric does not give it.
        reward: their weighted sum.
        reward_std: of all rewards of the step.
        same: whether its group's rewards are all the same, so that nothing is learnt from it.
        old_logps: of the answer's tokens before the step; None where that is the policy itself.
    """

    example: Example
    finished: bool
    scores: tuple[float | None, ...]
    reward: float
    advantage: float
    reward_std: float
    same: bool
    old_logps: tuple[float, ...] | None = None

    def blank(self) -> Rollout:
        """The same with nothing to train on."""
        return replace(self, example=self.example.blank(), old_logps=None if self.old_logps is None else ())
