"""Tensors as safetensors files: bit for bit, nothing that can run code."""

from __future__ import annotations

from pathlib import Path

import torch

from finetune.errors import CheckpointError, first_line


def save_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes any tensors, on any device, also views and several of one storage; `load_tensors` gives the same values.

    Raises:
        SafetensorError, OSError: it can't be written.
    """
    from safetensors.torch import save_file

    plain: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        if flat.untyped_storage().data_ptr() in storages:  # safetensors refuses names that share memory
            flat = flat.clone()
        storages.add(flat.untyped_storage().data_ptr())
        plain[name] = flat
    save_file(plain, file)


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: missing, or not a whole safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file, device="cpu")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: {first_line(error)}") from None
