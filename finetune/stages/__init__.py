"""Training stages by the name a recipe uses."""

from typing import Any

from finetune.stages.distill import Distill
from finetune.stages.grpo import Grpo
from finetune.stages.sft import Sft

STAGES: dict[str, Any] = {"sft": Sft, "grpo": Grpo, "distill": Distill}
