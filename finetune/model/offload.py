"""What the backward pass needs, in the host's memory until then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

SMALLEST = 1024  # elements; a smaller tensor is not worth a transfer


class ActivationOffloading:
    """Calling it gives a context: what autograd keeps inside goes to the host and comes back for the backward pass.

    The copies have the same bits, and transfers are ordered with the device's other work. Weights stay where they are:
    they are there anyway. With gradient checkpointing it is each layer's input that goes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @contextmanager
    def __call__(self, *_: torch.Tensor | None) -> Iterator[None]:
        weights = {t.untyped_storage().data_ptr() for t in (*self.model.parameters(), *self.model.buffers())}

        def pack(tensor: torch.Tensor) -> Any:
            if tensor.numel() < SMALLEST or tensor.untyped_storage().data_ptr() in weights:
                return tensor
            host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type != "cpu")
            return tensor.device, host.copy_(tensor, non_blocking=True)

        def unpack(packed: Any) -> torch.Tensor:
            if isinstance(packed, torch.Tensor):
                return packed
            device, host = packed
            return host.to(device, non_blocking=True)

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
