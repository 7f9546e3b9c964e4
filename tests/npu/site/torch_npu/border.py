"""From a tensor on the CPU to one on the device and back, on the same memory.

A tensor on `npu` is a real tensor of torch's (dispatch key PrivateUse1) whose storage is host memory. It is made by handing a
CPU tensor out as a DLPack capsule, changing the device that is written in it (kDLCPU = 1, kDLExtDev = 12), and taking it
in again; so no byte is copied in either direction, and views stay views.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from torch_npu import hardware

ON_CPU, ON_NPU = 1, 12  # DLDeviceType
BY_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def is_npu(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "npu"


def to_npu(tensor: torch.Tensor, index: int | None = None) -> torch.Tensor:
    """The device's view of a CPU tensor's memory, which it keeps alive."""
    tensor = tensor.resolve_conj().resolve_neg()
    found = _moved(tensor, ON_NPU, hardware.current if index is None else index)
    # DLPack leaves the strides of a dimension of size 1 open.
    return found if found.stride() == tensor.stride() else restrided(found, tensor.size(), tensor.stride(), 0)


def to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """The CPU's view of the memory of a tensor on the device."""
    if tensor.is_complex():
        tensor = tensor.resolve_conj().resolve_neg()
    found = _moved(tensor, ON_CPU, 0)
    return found if found.stride() == tensor.stride() else found.as_strided(tensor.size(), tensor.stride())


def restrided(tensor: torch.Tensor, size: Sequence[int], stride: Sequence[int], offset: int) -> torch.Tensor:
    """as_strided without a kernel of the device: it touches no data, so that the CPU's does."""
    return torch.ops.aten.as_strided.default.redispatch(BY_CPU, tensor, size, stride, offset)


def _moved(tensor: torch.Tensor, kind: int, index: int) -> torch.Tensor:
    capsule = torch._C._to_dlpack(tensor)
    managed = _pointer(capsule, b"dltensor")  # DLTensor: {void *data; {int32 type; int32 id}; ...}
    ctypes.c_int32.from_address(managed + 8).value = kind
    ctypes.c_int32.from_address(managed + 12).value = index
    return torch._C._from_dlpack(capsule)
