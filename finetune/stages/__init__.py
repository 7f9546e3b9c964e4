"""Training stages by the name a recipe uses."""

from finetune.stages.sft import Sft

STAGES = {"sft": Sft}
