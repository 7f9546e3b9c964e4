"""torch.npu.memory. Nothing is cached: what is reserved is what is allocated."""

from __future__ import annotations

from typing import Any

from torch_npu import allocations, hardware

__all__ = [
    "empty_cache", "max_memory_allocated", "max_memory_reserved", "mem_get_info", "memory_allocated", "memory_reserved",
    "memory_stats", "reset_max_memory_allocated", "reset_peak_memory_stats",
]  # fmt: skip


def memory_allocated(device: Any = None) -> int:
    return allocations.held[hardware.index_of(device)]


def max_memory_allocated(device: Any = None) -> int:
    return allocations.peak[hardware.index_of(device)]


def reset_peak_memory_stats(device: Any = None) -> None:
    index = hardware.index_of(device)
    allocations.peak[index] = allocations.held[index]


memory_reserved, max_memory_reserved = memory_allocated, max_memory_allocated
reset_max_memory_allocated = reset_peak_memory_stats


def memory_stats(device: Any = None) -> dict[str, int]:
    held, most = memory_allocated(device), max_memory_allocated(device)
    return {"allocated_bytes.all.current": held, "allocated_bytes.all.peak": most}


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Free bytes, all bytes."""
    return hardware.MEMORY - memory_allocated(device), hardware.MEMORY


def empty_cache() -> None:
    """There is none."""
