"""What each kind of device can do, and the one of this run. The only package that names torch.cuda, torch.npu or the
environment; importing it imports neither torch nor a device's package."""

from finetune.device.environment import before_torch, colours, launched, launcher_setting, local_rank
from finetune.device.libraries import quiet_libraries
from finetune.device.row import Device
from finetune.device.start import Placement, attention_problem, attentions, choose, environment, first_available, start
from finetune.device.table import DEVICES

__all__ = [
    "DEVICES",
    "Device",
    "Placement",
    "attention_problem",
    "attentions",
    "before_torch",
    "choose",
    "colours",
    "environment",
    "first_available",
    "launched",
    "launcher_setting",
    "local_rank",
    "quiet_libraries",
    "start",
]
