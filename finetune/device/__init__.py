"""The device table: cpu, cuda, npu. The only file that names torch.cuda, torch.npu or the environment."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.device import npu_kernels
from finetune.device.kernels import Kernels
from finetune.errors import RecipeError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from finetune.recipe import Recipe


@dataclass(frozen=True)
class Device:
    """One row: what a kind of device can do and what `auto` means on it.

    Attributes:
        dtypes: allowed for the base's weights, best first. No float16: its gradients need loss scaling.
        attention: allowed `attn_implementation`, the best one for training first.
        generation_attention: the best one for generating, when the recipe leaves it open.
        auto_micro_batch: sequences per forward pass when the recipe leaves `micro_batch_size` open.
        kernels: fused ops that it has; none by default.
    """

    name: str
    dtypes: tuple[str, ...]
    attention: tuple[str, ...]
    generation_attention: str
    auto_micro_batch: int
    available: Callable[[], bool]
    peak_memory: Callable[[], int]
    kernels: Callable[[], Kernels] = Kernels


def _cpu_peak_bytes() -> int:
    import resource

    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _cuda_available() -> bool:
    import torch

    return torch.cuda.is_available()


def _cuda_peak_bytes() -> int:
    import torch

    return torch.cuda.max_memory_allocated()


def _npu_available() -> bool:
    import torch

    return hasattr(torch, "npu") and torch.npu.is_available()


def _npu_peak_bytes() -> int:
    import torch

    return torch.npu.max_memory_allocated()  # type: ignore[attr-defined]


DEVICES = {
    "cpu": Device(
        "cpu", ("bfloat16", "float32"), ("eager", "sdpa"), "sdpa", 16, lambda: True, _cpu_peak_bytes,
    ),  # eager trains faster at some hundred tokens; sdpa decodes faster, it does not repeat the keys for each head
    "cuda": Device(
        "cuda", ("bfloat16", "float32"), ("sdpa", "eager", "flash_attention_2"), "sdpa", 8, _cuda_available,
        _cuda_peak_bytes,
    ),
    "npu": Device(
        "npu", ("bfloat16", "float32"), ("sdpa", "eager"), "sdpa", 8, _npu_available, _npu_peak_bytes,
        npu_kernels.kernels,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """Where and how a run computes: accelerate's view of the processes plus the row of the table.

    `engine` is how the processes share the model, one of finetune/engine.py's ENGINES.
    """

    accelerator: Accelerator
    device: Device
    dtype: str
    attention: str
    generation_attention: str
    engine: str = "single"

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, self.dtype)

    def autocast(self) -> Any:
        """Matrix products in the base's dtype, whatever the dtype of the adapter's weights."""
        import torch

        return torch.autocast(self.device.name, dtype=self.torch_dtype, enabled=self.dtype != "float32")


def start(recipe: Recipe) -> Placement:
    """The Accelerator for this process and the dtype and attention of the run.

    Raises:
        RecipeError: the recipe asks for a device, dtype or attention that is not to be had here, with what is; the
            launcher asks for an engine or for settings of it that are not supported.
    """
    # torch.distributed.nn keeps the group of its import time in default arguments. Imported later (by DDP, through
    # dynamo) it would keep the group's threads alive to the end of the process, where they abort it now and then.
    import torch.distributed.nn.functional  # noqa: F401
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    from finetune.engine import check_launcher, engine_of

    check_launcher()
    device = _choose(recipe.device)
    dtype = _dtype(recipe.model.dtype, device)
    attention = generation_attention = recipe.model.attn_implementation
    if attention == "auto":
        attention, generation_attention = device.attention[0], device.generation_attention
    elif attention not in device.attention:
        allowed = ", ".join(device.attention)
        raise RecipeError(f"model.attn_implementation: {attention!r} does not run on {device.name}; allowed: {allowed}")
    if device.name == "cpu":
        _keep_freed_memory()
        _use_all_cores()
    handlers: list[Any] = [DistributedDataParallelKwargs(gradient_as_bucket_view=True)]
    zero = launcher_setting("ACCELERATE_USE_DEEPSPEED") == "true"
    if zero and device.name == "cpu":  # with cpu=True accelerate would leave DeepSpeed out without a word
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    accelerator = Accelerator(
        cpu=device.name == "cpu" and not zero,
        mixed_precision="no",  # the recipe's dtype decides, through Placement.autocast, not the launcher's settings
        log_with=list(recipe.report_to) or None,
        project_dir=str(recipe.output_dir),
        kwargs_handlers=handlers,
    )
    return Placement(accelerator, device, dtype, attention, generation_attention, engine_of(accelerator))


def environment() -> dict[str, Any]:
    """What a manifest needs to say about this machine; nothing that identifies it."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def quiet_libraries() -> None:
    """One progress bar, ours: the libraries' own bars and notices to their developers would cut through it.

    Call before transformers is first imported (tqdm reads its switch then).
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in (
        "bitsandbytes",
        "torchao",
        "torch.utils._pytree",
    ):  # kernels that they lack; every cast of an int8 product
        logging.getLogger(name).setLevel(logging.ERROR)
    # peft 0.21 still asks transformers 5.23 for an attribute under its old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def launcher_setting(name: str) -> str:
    """A setting that `accelerate launch` passes on in the environment, in small letters; "" without it."""
    return os.environ.get(name, "").lower()


def local_rank() -> int:
    """This process's number on its machine, as the launcher set it; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched() -> bool:
    """Whether a launcher (accelerate launch, torchrun) started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def _choose(name: str) -> Device:
    if name == "auto":
        return next(DEVICES[kind] for kind in ("npu", "cuda", "cpu") if DEVICES[kind].available())
    if not DEVICES[name].available():
        here = ", ".join(kind for kind, device in DEVICES.items() if device.available())
        raise RecipeError(f"device: {name!r} is not to be had on this machine; available: {here}")
    return DEVICES[name]


def _dtype(asked: str, device: Device) -> str:
    if asked != "auto":
        if asked not in device.dtypes:
            allowed = ", ".join(device.dtypes)
            raise RecipeError(f"model.dtype: {asked!r} does not run on {device.name}; allowed: {allowed}")
        return asked
    if device.name == "cpu" and not _cpu_computes_bfloat16():
        return "float32"
    return device.dtypes[0]


def _cpu_computes_bfloat16() -> bool:
    """bf16 is only faster than float32 on a CPU with instructions for it (AMX or AVX512-BF16)."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        capability = torch.cpu.get_capabilities()
        return bool(capability.get("amx_bf16") or capability.get("avx512_bf16") or capability.get("bf16"))
    return torch.cpu._is_avx512_bf16_supported()


def _use_all_cores() -> None:
    """accelerate and torchrun give a process one thread unless told otherwise: share the cores among the processes."""
    import psutil
    import torch

    if not launched():
        return  # started directly: torch's own choice, or the user's OMP_NUM_THREADS, stands
    if os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return  # the user's choice, passed on by the launcher
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(allowed, psutil.cpu_count(logical=False) or allowed)
    torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _keep_freed_memory() -> None:
    """glibc: tensors up to 32 MiB from the heap, and no return of freed pages; each step would fault them in again."""
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 32 << 20)  # the largest that glibc takes
        libc.mallopt(m_trim_threshold, -1)
    except (OSError, AttributeError):
        return  # not glibc: nothing to set
