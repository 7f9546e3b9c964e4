"""npu tensors of the fake runtime lie in host memory: the same memory as a CPU tensor, without a copy, and back."""

from __future__ import annotations

import ctypes

import torch

KDL_CPU = 1  # DLDeviceType in dlpack.h
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def on_npu(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "npu"


def cpu_alias(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor of the same memory, sizes and strides: the tensor as a DLPack capsule whose device is rewritten.

    A DLTensor begins with `void* data; struct {int32 type; int32 id} device`.
    """
    if tensor.is_complex():
        tensor = tensor.resolve_conj()
    capsule = torch._C._to_dlpack(tensor.resolve_neg())
    start = _pointer(capsule, b"dltensor")
    ctypes.c_int32.from_address(start + 8).value = KDL_CPU
    ctypes.c_int32.from_address(start + 12).value = 0
    alias = torch._C._from_dlpack(capsule)
    # DLPack gives dimensions of size 1 other strides
    return alias if alias.stride() == tensor.stride() else alias.as_strided(tensor.size(), tensor.stride())


def to_npu(tensor: torch.Tensor, index: int | None) -> torch.Tensor:
    """A copy on the device, from torch_npu's own allocator."""
    device = torch.device("npu", torch.npu.current_device() if index is None else index)
    copy = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)
    if tensor.numel():
        cpu_alias(copy).copy_(tensor)
    return copy
