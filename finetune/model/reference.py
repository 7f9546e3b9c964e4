"""The policy that training started from, out of the model in training: no second copy of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetune.fullstate import copy_part, trainable
from finetune.model.virtual import is_prompted


@contextmanager
def reference(model: nn.Module) -> Iterator[Any]:
    """Inside, what is yielded (called as the model is) computes without gradient what the model did before training.

    That is the base (adapter off) for a fresh adapter, and the adapter as it was for a run that goes on training one.

    To be asked before the policy's own forward pass: a starting adapter's weights take their place in the parameters for
    that time, which a backward pass would notice.

    Args:
        model: in training: a wrapper of finetune/model/ (TrainedPositions), perhaps wrapped again by an engine.
    """
    inner: Any = model
    while hasattr(inner, "module"):  # DDP, DeepSpeed
        inner = inner.module
    was_training = inner.training
    inner.eval()  # no dropout
    try:
        with torch.no_grad(), adapter_off(inner.model) if inner.start is None else _weights(inner, inner.start):
            yield inner
    finally:
        inner.train(was_training)


@contextmanager
def as_base(model: nn.Module, fresh: dict[str, torch.Tensor] | None) -> Iterator[None]:
    """Inside, the peft model computes what its base did before anything was trained.

    Args:
        fresh: the trainable parameters as the adapter was added, where the base is not what is left with the adapter off
            (see `Ready.fresh`); else None.
    """
    with adapter_off(model) if fresh is None else _weights(model, fresh):
        yield


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Inside, the peft model computes what its base does.

    peft's own `disable_adapter` also says of the weights that they need no gradient; FSDP2, which asks for that at the
    first forward pass only, would then never train them.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    if is_prompted(model):
        with model.disable_adapter():  # nothing in the layers: the base's own forward pass takes its place
            yield
        return
    layers: list[Any] = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off


@contextmanager
def _weights(model: nn.Module, tensors: dict[str, torch.Tensor]) -> Iterator[None]:
    """Inside, the trainable parameters have these values, by their names in the peft model; in place, and back."""
    parameters = dict(trainable(model))
    with torch.no_grad():
        kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            copy_part(tensors[name], parameter)
        try:
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])
