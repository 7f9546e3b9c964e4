"""Tensors and optimizer state as safetensors files: flat names, bit for bit, nothing that can run code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune.errors import CheckpointError

MOMENTS = ("exp_avg", "exp_avg_sq")  # of torch.optim.AdamW; each as large as its parameter
STATE = (*MOMENTS, "step")


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
        raise CheckpointError(f"{file}: {str(error).splitlines()[0]}") from None


def optimizer_tensors(optimizer: Any, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The state of an AdamW, or of accelerate's wrapper of one, as `exp_avg.<name>`, `exp_avg_sq.<name>`, `step.<name>`.

    Args:
        names: of the optimizer's parameters, in its order.

    Returns:
        Copies on the CPU: training may go on while they are written. A parameter that has no state yet (no gradient so
        far) has the state that AdamW would begin with, so that every name is always there.
    """
    tensors = {}
    for name, parameter, _ in _parameters(optimizer, names):
        state = optimizer.state.get(parameter) or _beginning(parameter)
        if set(state) != set(STATE):
            raise TypeError(f"not the state of a plain AdamW: {', '.join(sorted(state))}")
        for key in STATE:
            tensors[f"{key}.{name}"] = state[key].detach().to("cpu", copy=True)
    return tensors


def load_optimizer(optimizer: Any, names: Sequence[str], tensors: dict[str, torch.Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave, bit for bit. Learning rates and the like stay the optimizer's own.

    Raises:
        CheckpointError: every name that is missing or unknown, every shape or dtype that does not fit; the optimizer is
            as it was.
    """
    parameters = list(_parameters(optimizer, names))
    problems = []
    expected = {f"{key}.{name}": (key, parameter) for name, parameter, _ in parameters for key in STATE}
    problems += [f"optimizer: {name}: missing" for name in expected if name not in tensors]
    problems += [f"optimizer: {name}: no such parameter is trained" for name in tensors if name not in expected]
    for name, (key, parameter) in expected.items():
        if name in tensors:
            problems += _misfits(name, tensors[name], parameter if key in MOMENTS else torch.tensor(0.0))
    if problems:
        raise CheckpointError(problems)
    state = {}
    for name, parameter, group in parameters:
        on_device = group.get("fused") or group.get("capturable")  # as Optimizer.load_state_dict places `step`
        where = {key: parameter.device for key in MOMENTS} | {"step": parameter.device if on_device else "cpu"}
        state[parameter] = {key: tensors[f"{key}.{name}"].to(where[key], copy=True) for key in STATE}
    optimizer.state.update(state)


def _parameters(optimizer: Any, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor, dict[str, Any]]]:
    """Name, parameter and group, in the optimizer's order."""
    found = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    if len(found) != len(names) or len(set(names)) != len(names):
        raise ValueError(f"{len(names)} names ({len(set(names))} different) for {len(found)} parameters")
    for name, (parameter, group) in zip(names, found, strict=True):
        yield name, parameter, group


def _beginning(parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    return {key: torch.zeros_like(parameter) for key in MOMENTS} | {"step": torch.tensor(0.0)}


def _misfits(name: str, tensor: torch.Tensor, like: torch.Tensor) -> list[str]:
    if tensor.shape != like.shape:
        return [f"optimizer: {name}: shape {tuple(tensor.shape)}, expected {tuple(like.shape)}"]
    if tensor.dtype != like.dtype:
        return [f"optimizer: {name}: {tensor.dtype}, expected {like.dtype}"]
    return []
