"""Linear layers of a model that answers: weights put in the device's order once, LoRA's products without steps between.

What is computed is the same; a sum is rounded once where peft rounds it three times. Nothing of it stays behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetune.device import Device
from finetune.model.fused import computes_as_trained

LARGEST = 4 << 30  # bytes of weights that are copied; a larger model computes as it is
NARROW = 32  # a product as narrow gains nothing

Pack = Callable[[torch.Tensor, torch.Tensor | None, int], Any]


@contextmanager
def quick_linears(model: Any, device: Device, rows: int) -> Iterator[None]:
    """Inside, linear layers whose weights are all in one piece on the device compute by its `packed_linear`.

    Args:
        model: a peft model or one of transformers, in eval mode, no gradient wanted.
        rows: that are computed at once, about.
    """
    pack = device.packed_linear
    changed: list[nn.Module] = []
    trained: list[tuple[nn.Module, Any]] = []
    try:
        if pack is not None and _bytes(model) <= LARGEST:
            trained = [(module, module.forward) for module in model.modules() if computes_as_trained(module)]
            for module, _forward_before in trained:
                del module.forward
            inside: set[Any] = set()  # base layers that their LoRA layer computes
            for module in [module for module in model.modules() if "forward" not in vars(module)]:
                forward = None if module in inside else _forward(module, pack, rows)
                if forward is not None:
                    module.forward = forward
                    changed.append(module)
                    inside.add(getattr(module, "base_layer", None))
        yield
    finally:
        for module in changed:
            del module.forward
        for module, before in trained:
            module.forward = before


def _bytes(model: Any) -> int:
    return sum(module.weight.nbytes for module in model.modules() if type(module) is nn.Linear)


def _in_one_piece(weight: torch.Tensor) -> bool:
    """Neither quantised nor shared out among processes."""
    return type(weight.data) is torch.Tensor and weight.ndim == 2


def _forward(module: nn.Module, pack: Pack, rows: int) -> Callable[..., Any] | None:
    """What computes this module quicker; None: nothing does."""
    if type(module) is nn.Linear:
        wide = _in_one_piece(module.weight) and min(module.weight.shape) > NARROW
        return _of_linear(module, pack, rows) if wide else None
    lora = type(module).__module__.startswith("peft.") and _is_plain_lora(module)
    return _of_lora(module, pack, rows) if lora else None


def _of_linear(module: nn.Linear, pack: Pack, rows: int) -> Callable[..., Any] | None:
    product, plain, dtype = pack(module.weight, module.bias, rows), module.forward, module.weight.dtype
    if product is None:
        return None
    return lambda x: product(x) if x.dtype == dtype else plain(x)


def _is_plain_lora(module: Any) -> bool:
    """Whether it is peft's LoRA on an `nn.Linear`, with one adapter that is on, and nothing but W x + s B A x."""
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return False
    name, base = module.active_adapters[0], module.get_base_layer()
    if type(base) is not nn.Linear or name not in module.lora_A or name in module.lora_variant:
        return False
    parts = (module.lora_A[name], module.lora_B[name])
    return all(
        type(part) is nn.Linear and part.bias is None and not part._forward_hooks and not part._forward_pre_hooks
        and _in_one_piece(part.weight) and part.weight.dtype == base.weight.dtype
        for part in parts
    )  # fmt: skip


def _of_lora(module: Any, pack: Pack, rows: int) -> Callable[..., Any] | None:
    """W x added onto s B A x, so that the sum is rounded once (see model/lora_product.py)."""
    name, base, plain = module.active_adapters[0], module.get_base_layer(), module.forward
    first, second = module.lora_A[name].weight, module.lora_B[name].weight
    dtype = first.dtype
    if not _in_one_piece(base.weight) or base._forward_hooks or base._forward_pre_hooks:
        return None
    last = pack((second.float() * module.scaling[name]).to(dtype), None, rows)
    wide = pack(base.weight, base.bias, rows)
    if last is None or wide is None:
        return None

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or x.dtype != dtype:
            return plain(x, *args, **kwargs)
        return wide(x, last(nn.functional.linear(x, first)))

    return forward
