"""The probes' child processes, run for real on small stand-ins for torch and torch_npu: crash, hang, noise, exit, all well."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune.device import cuda_probe, npu_probe
from finetune.device.machine import Machine
from finetune.device.npu_probe import Probe

TORCH = """
import types
__version__ = "2.13.0"
version = types.SimpleNamespace(cuda="12.8", hip=None)
class Ones(list):
    def __add__(self, other): return Ones(a + b for a, b in zip(self, other))
    def sum(self): return Number(sum(self))
class Number(float):
    def cpu(self): return self
def ones(count, device): return Ones([1.0] * count)
class distributed:
    is_available = is_nccl_available = staticmethod(lambda: True)
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
    get_arch_list = staticmethod(lambda: ["sm_90", "compute_90"])
    get_device_name = staticmethod(lambda index: f"GPU {index}")
    get_device_capability = staticmethod(lambda index: (9, 0))
    class nccl:
        version = staticmethod(lambda: (2, 29, 3))
"""
TORCH_NPU = """
import os, torch
assert os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
__version__ = "2.13.0"
print("[EVENT] PROFILING(846,python): registered")
class npu:
    device_count = staticmethod(lambda: 1)
    is_available = is_bf16_supported = staticmethod(lambda: True)
    get_device_name = staticmethod(lambda index: "Ascend910B3")
torch.npu = npu
"""


@dataclass(frozen=True)
class Here(Machine):
    """This machine with these two installed."""

    def version(self, distribution: str) -> str | None:
        return "2.13.0"

    def requires(self, distribution: str) -> list[str]:
        return ["torch==2.13.0.*"]


def tried(folder: Path, torch_npu: str, timeout: float = 30.0) -> Probe:
    (folder / "torch.py").write_text(TORCH)
    (folder / "torch_npu.py").write_text(torch_npu)
    return npu_probe.probe(timeout, Here(env={**os.environ, "PYTHONPATH": str(folder)}))


def test_all_well_amid_noise(tmp_path):
    found = tried(tmp_path, TORCH_NPU)
    assert (found.status, found.what) == ("ok", "torch_npu 2.13.0 computes on 1 NPU(s)")
    assert found.facts == {
        "step": "done", "torch": "2.13.0", "torch_npu": "2.13.0", "count": 1, "available": True, "names": ["Ascend910B3"],
        "bf16": True, "sum": 16.0,
    }  # fmt: skip


@pytest.mark.parametrize(("code", "status", "what"), [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed",
     "importing torch_npu ended the process (signal 11)"),
    ("import os, sys; print('CANN: abort', file=sys.stderr, flush=True); os._exit(1)", "crashed",
     "importing torch_npu ended the process (exit code 1): CANN: abort"),
    ("raise SystemExit(3)", "failed", "importing torch_npu failed: SystemExit: 3"),
    ("raise RuntimeError('aclInit, error code is 507008\\nand more')", "driver_failed",
     "importing torch_npu failed: RuntimeError: aclInit, error code is 507008"),
])  # fmt: skip
def test_an_import_that_goes_wrong(code, status, what, tmp_path):
    found = tried(tmp_path, code)
    assert (found.status, found.what, found.breaks_torch) == (status, what, True)


def test_a_first_operation_that_hangs(tmp_path):
    """In a compiler that it started, as CANN does: the compiler is stopped too, or its pipe would be waited for."""
    hang = "import subprocess\ndef slow(*_, **__): subprocess.run(['sleep', '60'])\ntorch.ones = slow\n"
    found = tried(tmp_path, TORCH_NPU + hang, timeout=1.5)
    assert (found.status, found.what) == ("hung", "running a first operation did not end within 2 s")
    assert found.facts["names"] == ["Ascend910B3"]


def test_what_torch_says_of_cuda(tmp_path):
    (tmp_path / "torch.py").write_text(TORCH)
    machine = Here(env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert cuda_probe.probe(machine) == {
        "torch": "2.13.0", "cuda": "12.8", "hip": None, "available": True, "archs": ["sm_90", "compute_90"], "nccl": "2.29.3",
        "devices": [{"name": "GPU 0", "capability": [9, 0]}, {"name": "GPU 1", "capability": [9, 0]}], "sum": 16.0,
    }  # fmt: skip
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    assert cuda_probe.probe(machine) == {"error": "ImportError: libcudart.so.12: cannot open shared object file"}
    (tmp_path / "torch.py").write_text("import os; os.abort()")
    assert cuda_probe.probe(machine) == {"error": "`import torch` ended the process (signal 6)"}
