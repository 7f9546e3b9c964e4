"""The CPU: its row, and what makes it fast."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from typing import Any

from finetune.device.environment import launched
from finetune.device.kernels import Kernels
from finetune.device.onednn import packed_linear
from finetune.device.row import Device


def computes_bfloat16() -> bool:
    """bf16 is only faster than float32 on a CPU with instructions for it (AMX or AVX512-BF16)."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        capability = torch.cpu.get_capabilities()
        return bool(capability.get("amx_bf16") or capability.get("avx512_bf16") or capability.get("bf16"))
    return torch.cpu._is_avx512_bf16_supported()


def cores() -> int:
    """Cores that this process may use."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def _prepare() -> None:
    _keep_freed_memory()
    _use_all_cores()


def _use_all_cores() -> None:
    """accelerate and torchrun give a process one thread unless told otherwise: share the cores among the processes."""
    import torch

    if not launched():
        return  # started directly: torch's own choice, or the user's OMP_NUM_THREADS, stands
    if os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return  # the user's choice, passed on by the launcher
    torch.set_num_threads(max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _keep_freed_memory() -> None:
    """glibc: tensors up to 32 MiB from the heap, and no return of freed pages; each step would fault them in again."""
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 32 << 20)  # the largest that glibc takes
        libc.mallopt(m_trim_threshold, -1)
    except (OSError, AttributeError):
        return  # not glibc: nothing to set


def _give_back() -> None:
    """What `_keep_freed_memory` kept, where it is glibc's: training's gigabytes would stand beside those of the answers."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def _peak_bytes() -> int:
    import resource

    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _memory_bytes() -> int:
    import psutil

    return psutil.virtual_memory().total


def _kernels() -> Kernels:
    from finetune.device import cpu_kernels  # imports torch

    return cpu_kernels.kernels()


def _attend(query: Any, key: Any, value: Any, mask: Any, scale: float) -> tuple[Any, Any]:
    """What scaled_dot_product_attention calls on a CPU; it keeps the second result, which the backward pass needs, to itself."""
    import torch

    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return operator(query, key, value, 0.0, False, attn_mask=mask, scale=scale)


CPU = Device(
    name="cpu",
    dtypes=("bfloat16", "float32"),
    # eager trains faster at some hundred tokens; sdpa decodes faster, it does not repeat the keys for each head
    attention={"eager": "eager", "sdpa": "sdpa"},
    generation_attention="sdpa",
    auto_micro_batch=16,
    backend="gloo",
    why_not=lambda: "",
    chip=lambda: None,
    bfloat16=computes_bfloat16,
    peak_memory=_peak_bytes,
    memory=_memory_bytes,
    prepare=_prepare,
    give_back=_give_back,
    kernels=_kernels,
    packed_linear=packed_linear,
    attend=_attend,
)
