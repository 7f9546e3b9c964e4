"""The device table: cpu, cuda, npu."""

from finetune.device.cpu import CPU
from finetune.device.cuda import CUDA
from finetune.device.npu import NPU

DEVICES = {row.name: row for row in (CPU, CUDA, NPU)}
