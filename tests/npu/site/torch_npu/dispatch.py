"""The kernel of every op that has none of its own: refuse what a card refuses, count, compute on the CPU's views."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch

from torch_npu import allocations, emulator, hardware
from torch_npu.border import is_npu, restrided, to_cpu, to_npu
from torch_npu.random_state import Drawing, of_device

# Indices may be on the CPU, as everywhere in torch; the rest copies from device to device.
MIXING = frozenset(
    f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_", "_to_copy", "_pin_memory")
)


def run_on_cpu(op: Any, *args: Any, **kwargs: Any) -> Any:
    """A boxed kernel. Outputs that are views of an argument, or an argument, are that on the device too."""
    arguments = [*args, *kwargs.values()]
    refuse(op, arguments, kwargs)
    emulator.note_op(op, arguments)
    schema, aliases = op._schema, _aliases(op)
    call = Call()
    on_cpu = [call.to_cpu(value, alias) for value, alias in zip(args, aliases.values(), strict=False)]
    named = {name: call.to_cpu(value, aliases[name]) for name, value in kwargs.items()}
    if named.get("pin_memory"):
        named["pin_memory"] = False
    random = torch.Tag.nondeterministic_seeded in op.tags and kwargs.get("generator") is None
    with Drawing(call.device) if random else nullcontext():
        out = op(*on_cpu, **named)
    call.keep_resized()
    asked = kwargs.get("device")
    if isinstance(asked, torch.device) and asked.type == "cpu":
        return out
    if isinstance(out, tuple) and len(schema.returns) > 1:
        return tuple(call.to_npu(value, known.alias_info) for value, known in zip(out, schema.returns, strict=True))
    return call.to_npu(out, schema.returns[0].alias_info if schema.returns else None)


@functools.cache
def _aliases(op: Any) -> dict[str, Any]:
    """Of each argument whether it is written to or looked at by an output."""
    return {argument.name: argument.alias_info for argument in op._schema.arguments}


class Call:
    """The tensors of one call on both sides.

    Methods, not functions inside of functions: those that call themselves are cycles, which would keep tensors alive.
    """

    def __init__(self) -> None:
        self.views: dict[
            int, tuple[torch.Tensor, torch.Tensor]
        ] = {}  # id of one on the device -> (that, the CPU's view)
        self.written: list[tuple[torch.Tensor, torch.Tensor, torch.Size]] = []
        self.device: int | None = None

    def to_cpu(self, value: Any, alias: Any) -> Any:
        """An argument as the CPU's kernel gets it."""
        if isinstance(value, torch.Tensor):
            return self._view(value, alias is not None and alias.is_write) if is_npu(value) else value
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)(self.to_cpu(item, alias) for item in value)
        if isinstance(value, torch.device) and value.type == "npu":
            self.device = hardware.index_of(value) if self.device is None else self.device
            return torch.device("cpu")
        return value

    def _view(self, tensor: torch.Tensor, writes: bool) -> torch.Tensor:
        if self.device is None:
            self.device = tensor.device.index
        if id(tensor) not in self.views:
            # An empty out= is resized by the kernel, which memory that came in through DLPack can't be.
            fresh = writes and tensor.numel() == 0
            view = torch.empty(tensor.size(), dtype=tensor.dtype) if fresh else to_cpu(tensor)
            self.views[id(tensor)] = (tensor, view)
            if writes:
                self.written.append((tensor, view, tensor.size()))
        return self.views[id(tensor)][1]

    def keep_resized(self) -> None:
        """Where the kernel resized an out=, the device's tensor gets the new memory."""
        for tensor, view, size in self.written:
            if view.size() != size:
                tensor.data = to_npu(view, tensor.device.index)

    def to_npu(self, value: Any, alias: Any) -> Any:
        """A result as the caller gets it."""
        if isinstance(value, torch.Tensor):
            return self._result(value, alias)
        if isinstance(value, (list, tuple)):
            return type(value)(self.to_npu(item, alias) for item in value)
        return value

    def _result(self, value: torch.Tensor, alias: Any) -> torch.Tensor:
        for tensor, view in self.views.values():
            if view is value:
                return tensor
        if value.device.type != "cpu":
            return value
        if alias is not None and not alias.is_write:
            for tensor, _view in self.views.values():
                storage = tensor.untyped_storage()
                offset = value.data_ptr() - storage.data_ptr()
                if 0 <= offset < max(storage.nbytes(), 1) and value.dtype == tensor.dtype:
                    return restrided(tensor, value.size(), value.stride(), offset // value.element_size())
        allocations.account(value, self.device or 0)
        return to_npu(value, self.device)


def refuse(op: Any, arguments: list[Any], kwargs: dict[str, Any]) -> None:
    """What a card refuses.

    Raises:
        RuntimeError: tensors of two devices; a dtype that the card has not; a generator of another device.
        NotImplementedError: an op of a library that brings kernels for other devices (bitsandbytes, torchao).
    """
    name = str(op._schema.name)
    if not name.startswith(("aten::", "prims::")):
        raise NotImplementedError(f"emulated npu: {name} has no kernel for this device")
    if name not in MIXING:
        _refuse_mixing(name, arguments)
    for value in flat(arguments):
        if isinstance(value, torch.dtype):
            hardware.refuse_dtype(value, name)
        elif is_npu(value):
            hardware.refuse_dtype(value.dtype, name)
    generator = kwargs.get("generator")
    if generator is not None and not of_device(generator):
        raise RuntimeError(f"Expected a 'npu' device type for generator but found '{generator.device.type}' ({name})")


def _refuse_mixing(name: str, arguments: list[Any]) -> None:
    """A tensor without dimensions may come from the CPU, and an empty one does no harm."""
    devices = {
        value.device: None
        for value in flat(arguments)
        if isinstance(value, torch.Tensor) and (value.device.type != "cpu" or (value.dim() and value.numel()))
    }
    if len(devices) > 1:
        first, second = list(devices)[:2]
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{first} and {second}! (emulated npu, {name})"
        )


def flat(arguments: list[Any]) -> Iterator[Any]:
    for value in arguments:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value
