"""The sections of tasks that lm-eval (EleutherAI's harness) asks, and of vLLM as the engine of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from finetune.recipe_peft import Names
from finetune.recipe_stages import Section


class LmEvalSection(Section):
    """Tasks of lm-eval, asked of base and tuned model by lm-eval itself. See docs/evaluation_harness.md.

    Attributes:
        tasks: ids of tasks, groups or tags of lm-eval, or of `include_path`.
        num_fewshot: worked examples before a question; null: as many as the task says.
        limit: questions of each task at most, the first ones; null: all.
        batch_size: questions at once.
        include_path: a folder of task files (YAML) of your own. Python that they name is run.
        apply_chat_template: whether questions are put as a user's turn; lm-eval's own default is not to.
    """

    tasks: Annotated[Names, Field(min_length=1)]
    num_fewshot: int | None = Field(None, ge=0)
    limit: int | None = Field(None, ge=1)
    batch_size: int = Field(8, ge=1)
    include_path: Path | None = Field(None, strict=False)
    apply_chat_template: bool = False

    @field_validator("tasks")
    @classmethod
    def each_once(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        twice = [task for task in dict.fromkeys(tasks) if tasks.count(task) > 1]
        if twice:
            raise ValueError(f"listed twice: {', '.join(twice)}")
        return tasks


class VllmSection(Section):
    """vLLM, where it answers (`evaluate.engine: vllm`).

    Attributes:
        python: of the environment that vLLM is in, which pins other versions than this toolkit; null: this one.
        gpu_memory_utilization: share of the whole card's memory that vLLM takes, weights and cache together; it has to be
            free when vLLM starts. The model in training lies in the host's memory meanwhile.
    """

    python: Path | None = Field(None, strict=False)
    gpu_memory_utilization: float = Field(0.8, gt=0, lt=1)
