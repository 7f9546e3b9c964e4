"""A stand-in for torch_npu: device `npu` in host memory, every kernel the CPU's. For tests; see tests/npu/README.md.

Needs torch 2.13: private interfaces of it are used (Python PrivateUse1 backends, DLPack capsules).
"""

from __future__ import annotations

import os

# torch would otherwise import this package once more, through its entry point, before it is finished here.
_before = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD")
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

from torch_npu import emulator, hardware, npu  # noqa: E402
from torch_npu.backend import install  # noqa: E402
from torch_npu.fused import npu_fusion_attention, npu_rms_norm, npu_rotary_mul, npu_swiglu  # noqa: E402

__version__ = "2.13.0+emul"
__all__ = [
    "emulator", "hardware", "npu", "npu_fusion_attention", "npu_rms_norm", "npu_rotary_mul", "npu_swiglu",
]  # fmt: skip

install(npu)
from torch_npu import optim  # noqa: E402, F401  # as of the real one, where it needs the device

if _before is None:
    del os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"]
else:
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = _before


def _autoload() -> None:
    """What torch calls through the entry point; the import has done everything."""
