"""UntypedStorage on the device. What torch generates would ask for a C++ allocator, which is not there, and crash."""

from __future__ import annotations

from typing import Any

import torch

from torch_npu import hardware


def install() -> None:
    plain, plain_clone = torch.storage._StorageBase.to, torch.storage._StorageBase.clone

    def to(self: Any, *, device: Any, non_blocking: bool = False) -> Any:
        if torch.device(device).type == "npu":
            return to_npu(self, device)
        return plain(self, device=device, non_blocking=non_blocking)

    def clone(self: Any) -> Any:
        return _copied(self, self.device.index) if self.device.type == "npu" else plain_clone(self)

    torch.storage._StorageBase.clone = clone  # type: ignore[method-assign]
    torch.storage._StorageBase.npu = to_npu  # type: ignore[attr-defined]
    torch.storage._StorageBase.to = torch.storage.UntypedStorage.to = to  # type: ignore[method-assign]


def to_npu(storage: Any, device: Any = None, non_blocking: bool = False) -> Any:
    """The storage, or a copy of it on the device; torch.load(map_location="npu:0") calls this."""
    index = hardware.index_of(device)
    if storage.device.type == "npu" and storage.device.index == index:
        return storage
    return _copied(storage, index)


def _copied(storage: Any, index: int) -> Any:
    made = torch.empty(storage.nbytes(), dtype=torch.uint8, device=f"npu:{index}")
    made.copy_(torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage))
    return made.untyped_storage()
