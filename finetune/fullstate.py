"""Weights and Adam's state as whole tensors under the peft model's names, whatever engine and number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from finetune.errors import RecipeError

MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's state beside its step


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Trainable parameters by the name they have in the peft model, whatever wraps it: `base_model.model. ...`."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name[name.index("base_model.") :], parameter


def full_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the whole trainable parameters on the CPU, the same for every engine and number of processes.

    A collective call: every process makes it, and gets all of them.
    """
    found = {}
    for name, parameter in trainable(model):
        with _gathered(parameter):
            found[name] = _whole(parameter.detach()).cpu().clone()
    return found


@torch.no_grad()
def load_full_tensors(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `full_tensors`, into a model of any engine; each process takes its part.

    Raises:
        RecipeError: a parameter is missing, unknown or of another shape, or the model is DeepSpeed's; nothing has been
            loaded then.
    """
    parameters = dict(trainable(model))
    _refuse_zero(parameters.values())
    _check(tensors, {name: tuple(parameter.shape) for name, parameter in parameters.items()})
    for name, parameter in parameters.items():
        _copy_part(tensors[name], parameter)


def full_optimizer(model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """Adam's whole state on the CPU: `exp_avg.NAME`, `exp_avg_sq.NAME` and `step.NAME` for each trainable parameter.

    A collective call. Parameters that have not had a step yet have no entries.

    Raises:
        RecipeError: the optimizer is DeepSpeed's, whose state only DeepSpeed reads.
    """
    _refuse_zero(parameter for _, parameter in trainable(model))
    found = {}
    for name, parameter in trainable(model):
        state = optimizer.state.get(parameter, {})
        for key in MOMENTS:
            if key in state:
                found[f"{key}.{name}"] = _whole(state[key]).cpu().clone()
        if "step" in state:
            found[f"step.{name}"] = torch.as_tensor(state["step"], dtype=torch.float32).cpu().clone()
    return found


@torch.no_grad()
def load_full_optimizer(model: nn.Module, optimizer: Any, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `full_optimizer`; each process takes its part.

    Raises:
        RecipeError: an entry is missing, unknown or of another shape, or the optimizer is DeepSpeed's; nothing has
            been loaded then.
    """
    parameters = dict(trainable(model))
    _refuse_zero(parameters.values())
    stepped = {name for name in parameters if f"step.{name}" in tensors}
    expected = {f"{key}.{name}": tuple(parameters[name].shape) for name in stepped for key in MOMENTS}
    _check(tensors, expected | {f"step.{name}": () for name in stepped})
    for name in stepped:
        parameter = parameters[name]
        state = optimizer.state[parameter] = {"step": tensors[f"step.{name}"].clone()}
        for key in MOMENTS:
            state[key] = torch.zeros_like(parameter, requires_grad=False)
            _copy_part(tensors[f"{key}.{name}"], state[key])


def _whole(tensor: Any) -> torch.Tensor:
    """A DTensor gathered from all processes; another tensor as it is."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gathered(parameter: Any) -> Any:
    """Inside: a parameter that ZeRO-3 has spread is whole; others are anyway."""
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters

    return GatheredParameters([parameter])


def _refuse_zero(parameters: Iterable[Any]) -> None:
    if any(hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping") for parameter in parameters):
        raise RecipeError("launcher: a run can't be resumed under DeepSpeed; use scripts/accelerate/fsdp2.yaml")


def _copy_part(whole: torch.Tensor, target: torch.Tensor) -> None:
    """This process's part of `whole` into `target`, in place; every process holds the same `whole`."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(target, DTensor):
        whole = whole.to(device=target.device, dtype=target.dtype)
        part = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)
        target.to_local().copy_(part.to_local())
    else:
        target.copy_(whole)


def _check(tensors: dict[str, torch.Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    problems = [f"{name}: missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name}: does not belong to this model" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name}: shape {tuple(tensors[name].shape)}, the model has {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        raise RecipeError(sorted(problems))
