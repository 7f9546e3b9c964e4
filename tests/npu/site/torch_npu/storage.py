"""UntypedStorage on the device. What torch generates would ask for a C++ allocator, which is not there, and crash."""

from __future__ import annotations

from typing import Any

import torch

from torch_npu import hardware


def install() -> None:
    plain = torch.storage._StorageBase.to

    def to(self: Any, *, device: Any, non_blocking: bool = False) -> Any:
        if torch.device(device).type == "npu":
            return to_npu(self, device)
        return plain(self, device=device, non_blocking=non_blocking)

    torch.storage._StorageBase.npu = to_npu  # type: ignore[attr-defined]
    torch.storage._StorageBase.to = torch.storage.UntypedStorage.to = to  # type: ignore[method-assign]


def to_npu(storage: Any, device: Any = None, non_blocking: bool = False) -> Any:
    """The storage, or a copy of it on the device; torch.load(map_location="npu:0") calls this."""
    index = hardware.index_of(device)
    if storage.device.type == "npu" and storage.device.index == index:
        return storage
    made = torch.empty(storage.nbytes(), dtype=torch.uint8, device=f"npu:{index}")
    made.copy_(torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage))
    return made.untyped_storage()
