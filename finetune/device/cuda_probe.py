"""What the installed torch says of CUDA, asked in a child process: a broken torch must not take its asker along."""

from __future__ import annotations

import json
import sys
from typing import Any

from finetune.device.machine import Machine

TIMEOUT = 120.0  # seconds; the first import of a large torch from a network disk takes most of a minute
MARK = "@@"

CHILD = r"""
import json
found = {}
try:
    import torch
    found.update(torch=torch.__version__, cuda=torch.version.cuda, hip=torch.version.hip, available=torch.cuda.is_available())
    if torch.version.cuda:
        found["archs"] = torch.cuda.get_arch_list()
        if torch.distributed.is_available() and torch.distributed.is_nccl_available():
            found["nccl"] = ".".join(str(part) for part in torch.cuda.nccl.version())
    if found["available"]:
        count = torch.cuda.device_count()
        found["devices"] = [
            {"name": torch.cuda.get_device_name(i), "capability": list(torch.cuda.get_device_capability(i))}
            for i in range(count)
        ]
        one = torch.ones(8, device="cuda:0")
        found["sum"] = float((one + one).sum().cpu())
except BaseException as error:
    found["error"] = f"{type(error).__name__}: {error}"
print("\n@@" + json.dumps(found), flush=True)
"""


def probe(machine: Machine, timeout: float = TIMEOUT) -> dict[str, Any]:
    """What the child found: torch, cuda, hip (versions), available, archs, nccl, devices, sum; or error, in words."""
    answer = machine.run([sys.executable, "-c", CHILD], timeout, {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    if answer is None or answer.code is None:
        return {"error": f"`import torch` did not end within {timeout:.0f} s"}
    for line in reversed(answer.out.splitlines()):
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    ended = f"signal {-answer.code}" if answer.code < 0 else f"exit code {answer.code}"
    last = next((line.strip() for line in reversed(answer.err.splitlines()) if line.strip()), "")
    return {"error": f"`import torch` ended the process ({ended}){': ' if last else ''}{last[:200]}"}
