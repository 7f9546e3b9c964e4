"""What stage grpo works on: prompts with what their answers are judged by, and answers with what they came to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from finetune.data.chat import Example


@dataclass(frozen=True)
class Prompt:
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

    @property
    def where(self) -> str:
        return self.example.where

    @property
    def length(self) -> int:
        """Tokens of prompt and reference answer."""
        return self.example.length

    @property
    def marks(self) -> tuple[float, ...]:
        return self.example.marks

    @property
    def examples(self) -> tuple[Example, ...]:
        return (self.example,)

    def blank(self) -> Prompt:
        """The same with nothing to train on."""
        return replace(self, example=self.example.blank())


@dataclass(frozen=True)
class Rollout:
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

    @property
    def where(self) -> str:
        return self.example.where

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return self.example.length

    @property
    def marks(self) -> tuple[float, ...]:
        return self.example.marks

    @property
    def examples(self) -> tuple[Example, ...]:
        return (self.example,)

    def blank(self) -> Rollout:
        """The same with nothing to train on."""
        return replace(self, example=self.example.blank(), old_logps=None if self.old_logps is None else ())
