"""Huawei's Ascend NPUs through torch_npu: how it is loaded, and their row.

torch_npu is never left to torch's autoload: half-installed (no CANN, another torch's) it would end every command, and
transformers and peft die on it as well.
"""

from __future__ import annotations

import functools
import os
import sys

from finetune.device import npu_kernels
from finetune.device.machine import Machine
from finetune.device.npu_probe import explain, first_line, mismatch, release, required_torch
from finetune.device.row import Device

# Read once, as torch_npu is imported. Less memory is lost between blocks of changing size.
ENVIRONMENT = {"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True"}


@functools.cache
def load() -> str:
    """Imports torch_npu; why that failed, in words with the way out, or "" when it is there.

    After a failure torch_npu is out of reach of the libraries that would try it again and die.
    """
    version = installed()
    if version is None:
        return "torch_npu is not installed"
    torch = Machine().version("torch") or ""
    problem = mismatch(torch, version, required_torch(Machine()))
    if problem is not None:
        problem += f"; pip install 'torch-npu=={release(torch)}'"
    else:
        problem = _import()
    if problem is not None:
        sys.modules["torch_npu"] = None  # type: ignore[assignment]  # a later import of it raises ImportError at once
    return problem or ""


def installed() -> str | None:
    """The version of torch_npu that is installed, without importing it."""
    return Machine().version("torch_npu")


def _import() -> str | None:
    kept = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD")
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    for variable, value in ENVIRONMENT.items():
        if variable.replace("_NPU", "") not in os.environ:  # torch_npu takes torch's own name too, and refuses both
            os.environ.setdefault(variable, value)
    try:
        import torch_npu  # type: ignore[import-not-found]  # noqa: F401
    except Exception as error:  # whatever CANN, the driver or the dynamic loader says
        status, remedy = explain(f"{type(error).__name__}: {error}")
        return f"torch_npu is installed but can't be loaded ({status}): {remedy}"
    finally:
        if kept is not None:  # torch_npu leaves it at 0 where it fails
            os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = kept
    return None


def _why_not() -> str:
    problem = load()
    if problem:
        return problem
    import torch

    try:
        if torch.npu.is_available() and torch.npu.device_count():  # type: ignore[attr-defined]
            return ""
    except RuntimeError as error:
        return "torch_npu is loaded but no NPU answers: " + explain(str(error))[1]
    return "torch_npu is loaded but finds no NPU; see /dev/davinci*, the driver and ASCEND_RT_VISIBLE_DEVICES"


def _prepare() -> None:
    """Kernels out of CANN's own library instead of one compiled per shape, and tensors in the plain layout only.

    Compiling takes minutes at each new length of a batch; the private layouts (NZ) would go into files. A first operation
    shows that the chip is known and has its kernels.
    """
    import torch

    torch.npu.set_compile_mode(jit_compile=False)  # type: ignore[attr-defined]
    torch.npu.config.allow_internal_format = False  # type: ignore[attr-defined]
    ones = torch.ones(8).to("npu")
    (ones + ones).sum().item()


def _explain(error: str) -> str:
    status, remedy = explain(error)
    return f"{first_line(error)} ({status}): {remedy}"


def fused_adamw() -> type:
    """torch_npu's AdamW that updates all parameters as one: float32 or float16, in one process."""
    from torch_npu.optim import NpuFusedAdamW  # type: ignore[import-not-found]

    return NpuFusedAdamW


def _chip() -> str:
    import torch

    return torch.npu.get_device_name()  # type: ignore[attr-defined]


def _bfloat16() -> bool:
    import torch

    return torch.npu.is_bf16_supported()  # type: ignore[attr-defined]


def _peak_bytes() -> int:
    import torch

    return torch.npu.max_memory_allocated()  # type: ignore[attr-defined]


def _memory_bytes() -> int:
    import torch

    return torch.npu.mem_get_info()[1]  # type: ignore[attr-defined]


def _give_back() -> None:
    import gc

    import torch

    gc.collect()
    torch.npu.empty_cache()  # type: ignore[attr-defined]


NPU = Device(
    name="npu",
    dtypes=("bfloat16", "float32"),
    # transformers runs what it calls flash_attention_2 as torch_npu.npu_fusion_attention here, without that package
    attention={"sdpa": "sdpa", "eager": "eager", "npu_fusion_attention": "flash_attention_2"},
    generation_attention="sdpa",
    auto_micro_batch=8,
    backend="hccl",
    why_not=_why_not,
    chip=_chip,
    bfloat16=_bfloat16,
    peak_memory=_peak_bytes,
    memory=_memory_bytes,
    prepare=_prepare,
    give_back=_give_back,
    explain=_explain,
    kernels=npu_kernels.kernels,
    attention_instead="there is no flash-attn for it; use sdpa, or npu_fusion_attention for packed rows",
    deterministic={"HCCL_DETERMINISTIC": "true", "LCCL_DETERMINISTIC": "1"},  # sums over processes in one order
    imitates_bfloat16=False,
    float64=False,
    compiles=False,
)
