"""Kernels for the real torch_npu on the fake CANN runtime: what torch_npu would hand to CANN is computed by the CPU.

torch_npu's allocator, views, streams, generator, autocast, patches, Python and list of operators remain in use (an operator
that it lacks goes its way to the CPU, or is an error under TORCH_NPU_FALLBACK_CPU_DISABLE=1); what the operators compute
and their formulas for gradients do not. Private interfaces of torch: tried with torch 2.13.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from tests.npu.cann.alias import cpu_alias, on_npu, to_npu

aten = torch.ops.aten
# torch_npu's own work without a kernel: memory, views and copies' front doors
KEPT = {
    "empty.memory_format", "empty_strided", "empty_like", "new_empty_strided", "resize_", "resize_as_", "record_stream",
    "as_strided", "as_strided_", "view", "unfold", "set_", "set_.source_Storage", "set_.source_Storage_storage_offset",
    "set_.source_Tensor", "is_set_to", "_to_copy", "_pin_memory", "pin_memory", "is_pinned", "contiguous",
    "_has_compatible_shallow_copy_type", "_record_function_enter",
}  # fmt: skip
# torch itself takes tensors of two devices here: index tensors may lie on the CPU
MIXED = {"aten::index", "aten::_index_put_impl_", "aten::index_put_", "aten::index_put", "aten::_to_copy"}
_libraries: list[torch.library.Library] = []  # a library's kernels go with it


def install() -> None:
    """Replace every aten operator that torch_npu registered, once torch_npu is imported."""
    library = torch.library.Library("aten", "IMPL")
    _libraries.append(library)
    own: dict[str, Callable] = {
        "copy_": copy, "_copy_from": copy_from, "_copy_from_and_resize": copy_from, "_local_scalar_dense": item,
        "scaled_dot_product_attention": attention,
    }  # fmt: skip
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1"):
        short = name.removeprefix("aten::")
        operator = _find(short)
        if short in KEPT or operator is None or not name.startswith("aten::"):
            continue
        # An operator that torch composes of others, for gradients too, is composed again; the others are computed.
        composed = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
        kernel = own.get(short) or (operator.decompose if composed else _on_cpu(operator))
        library.impl(short, kernel, "PrivateUse1", allow_override=True)
        if composed:
            library.impl(short, kernel, "AutogradPrivateUse1", allow_override=True)


def compute(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """The operator on CPU aliases of its npu tensors.

    What it returns is an argument (an in-place operator), a view of one, or new memory on the device.

    Raises:
        RuntimeError: tensors of several devices, as the dispatcher's guard says on a card.
    """
    call = Call(operator, args, kwargs)
    random = torch.Tag.nondeterministic_seeded in operator.tags
    with device_generator(call.index, call.kwargs.pop("generator", None)) if random else nullcontext():
        result = operator(*call.args, **call.kwargs)
    call.resize_outputs()
    returned = operator._schema.returns
    if len(returned) > 1:
        return tuple(call.back(value, kind) for value, kind in zip(result, returned, strict=True))
    return call.back(result, returned[0] if returned else None)


class Call:
    """An operator's arguments on the CPU, and the way back."""

    def __init__(self, operator: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.aliases: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # id of the npu tensor -> (it, its alias)
        self.sizes: list[tuple[torch.Tensor, torch.Tensor, torch.Size]] = []  # written to: (npu, alias, size before)
        self.index: int | None = None
        self.wants_cpu = getattr(kwargs.get("device"), "type", None) == "cpu"
        kinds = {argument.name: argument.alias_info for argument in operator._schema.arguments}
        if operator._schema.name not in MIXED:
            _same_device(operator, (*args, *kwargs.values()))
        self.args = [self.to_cpu(value, kind) for value, kind in zip(args, kinds.values(), strict=False)]
        self.kwargs = {name: self.to_cpu(value, kinds[name]) for name, value in kwargs.items()}
        if self.kwargs.get("pin_memory"):
            self.kwargs["pin_memory"] = False

    def to_cpu(self, value: Any, kind: Any) -> Any:
        if on_npu(value):
            self.index = value.device.index if self.index is None else self.index
            return self.alias(value, writes=kind is not None and kind.is_write)
        if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
            return type(value)(self.to_cpu(each, kind) for each in value)
        if isinstance(value, torch.device) and value.type == "npu":
            self.index = value.index if self.index is None else self.index
            return torch.device("cpu")
        return value

    def alias(self, tensor: torch.Tensor, writes: bool) -> torch.Tensor:
        if id(tensor) not in self.aliases:
            empty_output = writes and tensor.numel() == 0  # an `out=` that the operator gives its size
            alias = torch.empty(tensor.size(), dtype=tensor.dtype) if empty_output else cpu_alias(tensor)
            self.aliases[id(tensor)] = (tensor, alias)
            if writes:
                self.sizes.append((tensor, alias, tensor.size()))
        return self.aliases[id(tensor)][1]

    def resize_outputs(self) -> None:
        for tensor, alias, before in self.sizes:
            if alias.size() != before:
                tensor.resize_(alias.size())
                cpu_alias(tensor).copy_(alias)

    def back(self, value: Any, kind: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self.back(each, kind) for each in value)
        if not isinstance(value, torch.Tensor):
            return value
        for tensor, alias in self.aliases.values():
            if alias is value:
                return tensor
        if self.wants_cpu:
            return value
        if kind is not None and kind.alias_info is not None and not kind.alias_info.is_write:
            for tensor, alias in self.aliases.values():  # a view: the same elements of the npu tensor's storage
                if alias.untyped_storage().data_ptr() == value.untyped_storage().data_ptr():
                    offset = tensor.storage_offset() + value.storage_offset() - alias.storage_offset()
                    return aten.as_strided.default(tensor, value.size(), value.stride(), offset)
        return to_npu(value, self.index)


@contextmanager
def device_generator(index: int | None, generator: torch.Generator | None) -> Iterator[None]:
    """Random numbers from the state of the device's generator or of the one given, which moves on; the CPU's generator
    is left as it was.

    The state is two int64: philox's seed and offset.

    Raises:
        RuntimeError: a generator of another device.
    """
    if generator is not None and generator.device.type != "npu":
        raise RuntimeError(f"Expected a 'npu' device type for generator but found '{generator.device.type}'")
    if generator is None:
        torch.npu.current_device()  # initialises, and with it the list of generators
        generator = torch.npu.default_generators[torch.npu.current_device() if index is None else index]
    before, state = torch.get_rng_state(), generator.get_state()
    seed, offset = state.view(torch.int64).tolist()
    torch.default_generator.manual_seed((seed * 1000003 + offset) & 0xFFFFFFFFFFFF)
    state.view(torch.int64)[1] = offset + 4
    generator.set_state(state)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def copy(to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    to_alias, source_alias = (cpu_alias(tensor) if on_npu(tensor) else tensor for tensor in (to, source))
    to_alias.copy_(source_alias)
    return to


def copy_from(source: torch.Tensor, to: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return copy(to, source)


def item(tensor: torch.Tensor) -> Any:
    return cpu_alias(tensor).item()


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
    """torch's formula; torch_npu would call npu_fusion_attention."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(attn_mask.logical_not(), float("-inf"))
    return aten._scaled_dot_product_attention_math.default(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]


def _find(name: str) -> Any:
    base, _, overload = name.partition(".")
    return getattr(getattr(aten, base, None), overload or "default", None)


def _on_cpu(operator: Any) -> Callable:
    return lambda *args, **kwargs: compute(operator, *args, **kwargs)


def _same_device(operator: Any, values: tuple) -> None:
    flat = [each for value in values for each in (value if isinstance(value, list | tuple) else (value,))]
    tensors = [tensor for tensor in flat if isinstance(tensor, torch.Tensor)]
    # torch takes a CPU scalar with tensors of any device
    found = {str(tensor.device) for tensor in tensors if on_npu(tensor) or (tensor.dim() and tensor.numel())}
    if len(found) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(sorted(found))}! ({operator})"
        )
