"""torch.npu: what torch, accelerate, transformers, peft and finetune call of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from torch_npu import hardware
from torch_npu.hardware import is_bf16_supported as _is_bf16_supported
from torch_npu.npu import amp, memory, random, streams
from torch_npu.npu.memory import (
    empty_cache,
    max_memory_allocated,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    reset_max_memory_allocated,
    reset_peak_memory_stats,
)  # fmt: skip
from torch_npu.npu.random import (
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)  # fmt: skip
from torch_npu.npu.streams import Event, Stream, current_stream, default_stream, set_stream, stream

__all__ = [
    "Event", "Stream", "amp", "config", "current_device", "current_stream", "default_stream", "device", "device_count",
    "empty_cache", "get_amp_supported_dtype", "get_autocast_dtype", "get_device_capability", "get_device_name",
    "get_device_properties", "get_rng_state", "get_rng_state_all", "init", "initial_seed", "is_available",
    "is_bf16_supported", "is_initialized", "manual_seed", "manual_seed_all", "max_memory_allocated", "max_memory_reserved",
    "mem_get_info", "memory", "memory_allocated", "memory_reserved", "memory_stats", "random", "reset_max_memory_allocated",
    "reset_peak_memory_stats", "seed", "seed_all", "set_compile_mode", "set_device", "set_option", "set_rng_state",
    "set_rng_state_all", "set_stream", "stream", "streams", "synchronize", "utilization",
]  # fmt: skip

_initialized = True  # torch.utils.checkpoint keeps the device's random state only where this says so
options: dict[str, Any] = {}  # what was set and can't be asked for, to be read by tests


class _Config:
    """torch.npu.config: `allow_internal_format` can be set and not read."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "allow_internal_format":
            options["ALLOW_INTERNAL_FORMAT"] = "enable" if value else "disable"


config = _Config()


def is_available() -> bool:
    return hardware.DEVICES > 0


def is_initialized() -> bool:
    return True


def init() -> None:
    """Nothing is left to do."""


_lazy_init = init


def _is_in_bad_fork() -> bool:
    return False


def device_count() -> int:
    return hardware.DEVICES


def current_device() -> int:
    return hardware.current


def set_device(device: Any) -> None:
    hardware.set_current(hardware.index_of(device))


@contextmanager
def device(device: Any) -> Iterator[None]:
    """The current device, inside; -1 and None leave it as it is."""
    before = hardware.current
    hardware.set_current(hardware.index_of(device))
    try:
        yield
    finally:
        hardware.set_current(before)


def synchronize(device: Any = None) -> None:
    """Every kernel has ended when its call returns. Not counted: whoever writes it means it."""


def is_bf16_supported(including_emulation: bool = False) -> bool:
    return _is_bf16_supported()


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, *([torch.bfloat16] if _is_bf16_supported() else []), torch.float32]


def get_autocast_dtype() -> torch.dtype:
    return torch.get_autocast_dtype("npu")


def get_device_name(device_name: Any = None) -> str:
    hardware.index_of(device_name)
    return hardware.SOC


def get_device_properties(device_name: Any = None) -> SimpleNamespace:
    return SimpleNamespace(name=get_device_name(device_name), total_memory=hardware.MEMORY)


def get_device_capability(device: Any = None) -> None:
    """A number of CUDA's, which the real one has not either."""


def set_compile_mode(jit_compile: bool = False) -> None:
    options["jit_compile"] = jit_compile


def set_option(option: dict[str, Any]) -> None:
    options.update(option)


def utilization(device: Any = None) -> int:
    return 0


# `import torch.npu` and `torch.npu.random` are the same modules.
for _module in (amp, memory, random, streams):
    sys.modules[f"torch.npu.{_module.__name__.rpartition('.')[2]}"] = _module
