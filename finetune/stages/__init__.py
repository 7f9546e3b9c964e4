"""Training stages by the name a recipe uses."""

from typing import Any

from finetune.stages.cpt import Cpt
from finetune.stages.distill import Distill
from finetune.stages.dpo import Dpo
from finetune.stages.grpo import Grpo
from finetune.stages.kto import Kto
from finetune.stages.orpo import Orpo
from finetune.stages.reward import Reward
from finetune.stages.sft import Sft
from finetune.stages.simpo import Simpo

STAGES: dict[str, Any] = {
    "cpt": Cpt, "sft": Sft, "dpo": Dpo, "orpo": Orpo, "simpo": Simpo, "kto": Kto, "reward": Reward, "grpo": Grpo,
    "distill": Distill,
}  # fmt: skip
