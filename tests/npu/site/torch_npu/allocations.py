"""Bytes that tensors on the device hold, now and at most, for torch.npu's memory queries. Nothing is ever refused."""

from __future__ import annotations

import weakref
from collections import Counter

import torch

held: Counter[int] = Counter()  # by number of the device
peak: Counter[int] = Counter()


def account(tensor: torch.Tensor, index: int) -> None:
    """The storage of a new CPU tensor that is going to be one of the device: it counts until it is freed."""
    storage = tensor.untyped_storage()
    size = storage.nbytes()
    if size:
        held[index] += size
        peak[index] = max(peak[index], held[index])
        weakref.finalize(storage, _release, index, size).atexit = False


def _release(index: int, size: int) -> None:
    held[index] -= size
