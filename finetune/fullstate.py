"""Weights and Adam's state as whole tensors under the peft model's names, whatever engine and number of processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from finetune.errors import CheckpointError, RecipeError

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
        CheckpointError: a parameter is missing, unknown, of another shape or dtype; nothing has been loaded then.
        RecipeError: the model is DeepSpeed's.
    """
    parameters = dict(trainable(model))
    _refuse_zero(parameters.values())
    _check(tensors, parameters)
    for name, parameter in parameters.items():
        copy_part(tensors[name], parameter)


def full_optimizer(model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """AdamW's whole state on the CPU: `exp_avg.NAME`, `exp_avg_sq.NAME` and `step.NAME` for each trainable parameter.

    A collective call. The tensors are copies: training may go on while they are written. A parameter without state (no
    gradient so far) has the state that AdamW would begin with, so that every name is always there.

    Raises:
        RecipeError: the optimizer is DeepSpeed's, whose state only DeepSpeed reads.
        TypeError: not the state of a plain AdamW.
    """
    parameters = dict(trainable(model))
    _refuse_zero(parameters.values())
    found = {}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter) or _beginning(parameter)
        if set(state) != {*MOMENTS, "step"}:
            raise TypeError(f"not the state of a plain AdamW: {', '.join(sorted(state))}")
        for key in (*MOMENTS, "step"):
            found[f"{key}.{name}"] = _whole(state[key].detach()).to("cpu", copy=True)
    return found


@torch.no_grad()
def load_full_optimizer(model: nn.Module, optimizer: Any, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `full_optimizer`, bit for bit; each process takes its part. Learning rates stay as they are.

    Raises:
        CheckpointError: every entry that is missing, unknown, of another shape or dtype; nothing has been loaded then.
        RecipeError: the optimizer is DeepSpeed's.
    """
    parameters = dict(trainable(model))
    _refuse_zero(parameters.values())
    scalar = torch.tensor(0.0)
    expected = {
        f"{key}.{name}": parameter if key in MOMENTS else scalar
        for name, parameter in parameters.items()
        for key in (*MOMENTS, "step")
    }
    _check(tensors, expected)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in parameters.items():
        group = groups[id(parameter)]  # where Optimizer.load_state_dict puts `step`
        place = parameter.device if group.get("fused") or group.get("capturable") else "cpu"
        state = optimizer.state[parameter] = {"step": tensors[f"step.{name}"].to(place, copy=True)}
        for key in MOMENTS:
            state[key] = torch.zeros_like(parameter, requires_grad=False)
            copy_part(tensors[f"{key}.{name}"], state[key])


def _beginning(parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    return {key: torch.zeros_like(parameter) for key in MOMENTS} | {"step": torch.tensor(0.0)}


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


def copy_part(whole: torch.Tensor, target: torch.Tensor) -> None:
    """This process's part of `whole` into `target`, in place; every process holds the same `whole`."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(target, DTensor):
        whole = whole.to(device=target.device, dtype=target.dtype)
        part = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)
        target.to_local().copy_(part.to_local())
    else:
        target.copy_(whole)


def _check(tensors: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    problems = [f"{name}: missing" for name in expected if name not in tensors]
    problems += [f"{name}: no such parameter is trained" for name in tensors if name not in expected]
    for name, like in expected.items():
        tensor = tensors.get(name, like)
        if tuple(tensor.shape) != tuple(like.shape):
            problems.append(f"{name}: shape {tuple(tensor.shape)}, expected {tuple(like.shape)}")
        elif tensor.dtype != like.dtype:
            problems.append(f"{name}: {tensor.dtype}, expected {like.dtype}")
    if problems:
        raise CheckpointError(problems)
