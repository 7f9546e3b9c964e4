"""NVIDIA's GPUs: their row."""

from __future__ import annotations

from finetune.device.row import Device


def _why_not() -> str:
    import torch

    if torch.cuda.is_available():
        return ""
    built = torch.version.cuda
    return f"torch is built for CUDA {built} but finds no GPU" if built else "this torch is built without CUDA"


def _chip() -> str:
    import torch

    return torch.cuda.get_device_name()


def _bfloat16() -> bool:
    """Also where torch imitates it (before compute capability 8.0): slow, but half of float32's memory."""
    import torch

    return torch.cuda.is_bf16_supported()


def _peak_bytes() -> int:
    import torch

    return torch.cuda.max_memory_allocated()


def _memory_bytes() -> int:
    import torch

    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


def _give_back() -> None:
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()


CUDA = Device(
    name="cuda",
    dtypes=("bfloat16", "float32"),
    attention={"sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash_attention_2"},
    generation_attention="sdpa",
    auto_micro_batch=8,
    backend="nccl",
    why_not=_why_not,
    chip=_chip,
    bfloat16=_bfloat16,
    peak_memory=_peak_bytes,
    memory=_memory_bytes,
    give_back=_give_back,
    # cuBLAS's choice of kernels: https://docs.nvidia.com/cuda/cublas, "Results reproducibility"
    deterministic={"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
)
