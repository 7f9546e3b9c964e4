"""Training stages by the name a recipe uses."""

from typing import Any

from finetune.stages.cpt import Cpt
from finetune.stages.sft import Sft

STAGES: dict[str, Any] = {"cpt": Cpt, "sft": Sft}
