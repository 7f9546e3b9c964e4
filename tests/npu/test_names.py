"""The reader of torch_npu's names, by hand; and that the wheel of the contract belongs to torch's version."""

from __future__ import annotations

import re

from tests.conftest import ROOT
from tests.npu.names import Use, uses

SOURCE = '''
import torch, torch_npu.contrib as extra
from torch_npu.optim import NpuFusedAdamW as Fused
npu = torch.npu
npu.set_device(index, *more)
torch.npu.config.allow_internal_format = False
state = getattr(torch.npu, "get_rng_state")(device=0)
total = torch.npu.get_device_properties(torch.npu.current_device()).total_memory
Fused(parameters, lr=rate)
extra.transfer_to_npu
torch.ops.npu.npu_swiglu.default(x, dim=-1)
child("""
import torch_npu
torch_npu.npu_rms_norm(x, weight, epsilon=1e-6)
""")
torch.nn.functional.silu(npu_like)
'''


def test_names(tmp_path):
    """Aliases, assignments, getattr, an attribute that is set, a program in a string; a starred call binds nothing."""
    file = tmp_path / "source.py"
    file.write_text(SOURCE, encoding="utf-8")
    found = [
        (int(use.where.rpartition(":")[2]), use.name, use.positional, use.keywords, use.stored) for use in uses([file])
    ]
    assert found == [
        (2, "torch_npu.contrib", None, (), False),
        (3, "torch_npu.optim.NpuFusedAdamW", None, (), False),
        (4, "torch.npu", None, (), False),
        (5, "torch.npu.set_device", None, (), False),
        (6, "torch.npu.config.allow_internal_format", None, (), True),
        (7, "torch.npu.get_rng_state", 0, ("device",), False),
        (8, "torch.npu.get_device_properties", 1, (), False),
        (8, "torch.npu.current_device", 0, (), False),
        (9, "torch_npu.optim.NpuFusedAdamW", 1, ("lr",), False),
        (10, "torch_npu.contrib.transfer_to_npu", None, (), False),
        (11, "torch.ops.npu.npu_swiglu.default", 1, ("dim",), False),
        (2, "torch_npu", None, (), False),
        (3, "torch_npu.npu_rms_norm", 2, ("epsilon",), False),
    ]
    assert uses([file])[2] == Use("torch.npu", f"{file}:4")


def test_the_wheel_is_that_of_torch():
    """A torch_npu of another torch does not load."""
    pins = dict(re.findall(r"^(torch|torch_npu)==([\d.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pins["torch_npu"] == pins["torch"]
