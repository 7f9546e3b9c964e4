"""Distillation: the student's next-token distributions are drawn to a teacher's, on the assistant's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from finetune.data.template import Metric
from finetune.device import Placement
from finetune.errors import RecipeError
from finetune.model.teacher import Teacher, load_teacher
from finetune.recipe_stages import DistillSection
from finetune.stages.base import Batch, LossSum
from finetune.stages.batch import model_inputs
from finetune.stages.divergence import distilled
from finetune.stages.tokens import TokenStage


class Distill(TokenStage):
    """Loss = alpha cross-entropy + (1 - alpha) divergence from the teacher, summed over the trained tokens.

    Attributes:
        teacher: set by `prepare`, before the first loss.
    """

    settings: DistillSection
    teacher: Teacher | None = None

    def prepare(self, model: Any, metrics: Mapping[str, Metric], placement: Placement) -> dict[str, Any]:
        """Loads the teacher; its identity.

        Raises:
            RecipeError: as `load_teacher`; or the teacher can't keep packed documents apart.
        """
        from finetune.model.isolation import check_isolation

        size = model.config.get_text_config().vocab_size
        self.teacher = load_teacher(self.settings.teacher, self.encoder.tokenizer, size, placement)
        if self.data.joined_by and not self.data.allow_cross_doc:
            dtype = next(self.teacher.model.parameters()).dtype
            try:
                check_isolation(self.teacher.model, dtype, placement.accelerator.device, self.data.joined_by)
            except RecipeError as error:
                raise RecipeError([f"distill.teacher: {problem}" for problem in error.problems]) from None
        return {"teacher": self.teacher.identity}

    def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
        assert self.teacher is not None, "prepare() comes first"
        inputs, targets, own = model_inputs(batch), batch["targets"], self.settings
        teacher = self.teacher.logits(inputs)  # (N, W)
        student = model(*inputs)  # (N, V)
        result = distilled(student, teacher, targets, own.beta, own.temperature, own.alpha)
        correct = (student.detach().argmax(-1) == targets).sum()
        sums = {"divergence": result.divergence, "cross_entropy": result.cross_entropy, "token_accuracy": correct}
        return LossSum(result.value, sums)
