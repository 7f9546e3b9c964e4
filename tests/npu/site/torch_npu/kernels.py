"""Kernels that can't be the CPU's on views: making, copying and resizing memory, reading a number, convolution."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch

from torch_npu import allocations, emulator, hardware
from torch_npu.border import BY_CPU, is_npu, restrided, to_cpu, to_npu

aten = torch.ops.aten
# They change sizes and strides, not data: the CPU's kernels do for tensors of any device.
SHAPES_ONLY = (
    aten.as_strided.default, aten.view.default, aten._reshape_alias.default, aten.unfold.default, aten.view.dtype,
    aten.set_.source_Storage_storage_offset, aten.set_.source_Storage, aten.set_.source_Tensor,
    aten.set_.source_Tensor_storage_offset, aten.set_.default,
)  # fmt: skip
_pinned: weakref.WeakSet[Any] = weakref.WeakSet()  # storages; a copy to them needs no wait


def install(library: torch.library.Library) -> None:
    for name, kernel in KERNELS.items():
        library.impl(name, kernel, "PrivateUse1")
    for op in SHAPES_ONLY:
        name = op._schema.name.removeprefix("aten::")
        library.impl(
            name if op._overloadname == "default" else f"{name}.{op._overloadname}", _by_cpu(op), "PrivateUse1"
        )


def pin(tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
    """Pinned memory has no allocator in Python: a copy, of which is_pinned() is False, and which is known here."""
    made = tensor.clone()
    _pinned.add(made.untyped_storage())
    return made


def _by_cpu(op: Any) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        return op.redispatch(BY_CPU, *args, **kwargs)

    return kernel


def _new(tensor: torch.Tensor, device: Any) -> torch.Tensor:
    index = hardware.index_of(device)
    if tensor.dtype != torch.bfloat16:  # memory for it is to be had everywhere, kernels are not
        hardware.refuse_dtype(tensor.dtype, "empty")
    allocations.account(tensor, index)
    return to_npu(tensor, index)


def empty(
    size: Any,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    memory_format: Any = None,
) -> torch.Tensor:
    wanted = memory_format or torch.contiguous_format
    return _new(torch.empty(size, dtype=dtype or torch.get_default_dtype(), device="cpu", memory_format=wanted), device)


def empty_strided(
    size: Any, stride: Any, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> torch.Tensor:
    made = torch.empty_strided(size, stride, dtype=dtype or torch.get_default_dtype(), device="cpu")
    return _new(made, device)


def empty_like(
    tensor: torch.Tensor, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None,
    memory_format: Any = None,
) -> torch.Tensor:  # fmt: skip
    """Also on the CPU, in memory that is asked to be pinned, see `pin`."""
    made = torch.empty_like(to_cpu(tensor), dtype=dtype, memory_format=memory_format or torch.preserve_format)
    if pin_memory:
        _pinned.add(made.untyped_storage())
    where = tensor.device if device is None else torch.device(device)
    return made if where.type == "cpu" else _new(made, where)


def copy_(to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Within the device, to it, or from it. Bytes of any dtype may cross; to cast is to compute."""
    if to.dtype != source.dtype:
        for tensor in (to, source):
            if is_npu(tensor) or is_npu(source):
                hardware.refuse_dtype(tensor.dtype, "copy_")
    if is_npu(to) and not is_npu(source):
        emulator.note("uploads", "copy_")
    elif is_npu(source) and not is_npu(to) and not (non_blocking and to.untyped_storage() in _pinned):
        emulator.note("syncs", "copy_")
    (to_cpu(to) if is_npu(to) else to).copy_(to_cpu(source) if is_npu(source) else source)
    return to


def copy_from(source: torch.Tensor, to: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return copy_(to, source)


def resize_(tensor: torch.Tensor, size: Any, memory_format: Any = None) -> torch.Tensor:
    numel, item = math.prod(size), tensor.element_size()
    if (numel + tensor.storage_offset()) * item <= tensor.untyped_storage().nbytes():
        stride = [math.prod(size[at + 1 :]) for at in range(len(size))]
        tensor.data = restrided(tensor, size, stride, tensor.storage_offset())
        return tensor
    made = torch.empty(size, dtype=tensor.dtype)
    kept = min(tensor.numel(), numel)
    made.view(-1)[:kept].copy_(to_cpu(tensor).reshape(-1)[:kept])
    allocations.account(made, tensor.device.index)
    tensor.data = to_npu(made, tensor.device.index)
    return tensor


def local_scalar_dense(tensor: torch.Tensor) -> Any:
    emulator.note("syncs", "_local_scalar_dense")
    return to_cpu(tensor).item()


def convolution(value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *settings: Any) -> torch.Tensor:
    for tensor in (value, weight):
        hardware.refuse_dtype(tensor.dtype, "convolution")
    out = aten.convolution.default(to_cpu(value), to_cpu(weight), None if bias is None else to_cpu(bias), *settings)
    allocations.account(out, value.device.index)
    return to_npu(out, value.device.index)


def convolution_backward(
    gradient: torch.Tensor, value: torch.Tensor, weight: torch.Tensor, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, wanted: Any,
) -> tuple[torch.Tensor | None, ...]:  # fmt: skip
    bias_size = [weight.shape[1] * groups if transposed else weight.shape[0]]
    found = aten.convolution_backward.default(
        to_cpu(gradient), to_cpu(value), to_cpu(weight), bias_size, stride, padding, dilation, transposed, output_padding,
        groups, wanted,
    )  # fmt: skip
    return tuple(None if tensor is None else to_npu(tensor, value.device.index) for tensor in found)


KERNELS: dict[str, Callable[..., Any]] = {
    "empty.memory_format": empty,
    "empty_strided": empty_strided,
    "empty_like": empty_like,
    "copy_": copy_,
    "_copy_from": copy_from,
    "_copy_from_and_resize": copy_from,
    "resize_": resize_,
    "_local_scalar_dense": local_scalar_dense,
    "convolution_overrideable": convolution,
    "convolution_backward_overrideable": convolution_backward,
    # Module.to() then puts new data into its Parameters; else it would make others, which no optimizer knows.
    "_has_compatible_shallow_copy_type": lambda tensor, other: True,
    "record_stream": lambda tensor, stream: None,
}
