"""Weights and the optimizer's state as whole tensors under the peft model's names, whatever engine and number of processes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from finetune.errors import CheckpointError, RecipeError
from finetune.optimizer import averaging, inner

_IN_PEFT = re.compile(r"(?:^|\.)((?:base_model|prompt_encoder)\..+)")
HALF = re.compile(r"\.lora_(A|B|embedding_A|embedding_B)\.")
Entries = dict[str, Any]  # tensors, spread as the parameter is or whole in each process, and plain numbers


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Trainable parameters by the name they have in the peft model, whatever wraps it: `base_model.model. ...`."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name_in_peft(name), parameter


def name_in_peft(name: str) -> str:
    """A parameter's name in the peft model, out of that in whatever wraps it."""
    found = _IN_PEFT.search(name)
    assert found is not None, name
    return found[1]


def adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What an adapter's file holds: the trainable parameters, and the half of a LoRA that is frozen (LoRA-FA, MiCA).

    A copy of a layer that another layer shares (`ensure_weight_tying`) comes under both names, as peft writes it.
    """
    seen: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in seen and ".modules_to_save." not in name:
            continue
        seen.add(id(parameter))
        if parameter.requires_grad or HALF.search(name):
            yield name_in_peft(name), parameter


def turned_halves(model: nn.Module) -> dict[str, Any]:
    """Modules of an output layer's LoRA that are the embedding's turned round, by the name of their weight."""
    from finetune.tied_lora import TurnedHalf

    return {
        f"{name_in_peft(name)}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, TurnedHalf)
    }


def full_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the adapter's whole parameters on the CPU, the same for every engine and number of processes.

    A collective call: every process makes it, and gets all of them.
    """
    found = {}
    for name, parameter in adapter_parameters(model):
        with _gathered(parameter):
            found[name] = _whole(parameter.detach()).cpu().clone()
    for name, module in turned_halves(model).items():
        found[name] = _whole(module.weight.detach()).cpu().clone(memory_format=torch.contiguous_format)
    return found


@torch.no_grad()
def load_full_tensors(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `full_tensors`, into a model of any engine; each process takes its part.

    Raises:
        CheckpointError: a parameter is missing, unknown, of another shape or dtype; nothing has been loaded then.
        RecipeError: the model is DeepSpeed's.
    """
    parameters, turned = dict(adapter_parameters(model)), turned_halves(model)
    _refuse_zero(parameters.values())
    _check({name: tensor for name, tensor in tensors.items() if name not in turned}, parameters)
    for name, parameter in parameters.items():
        copy_part(tensors[name], parameter)


@dataclass(frozen=True)
class State:
    """What an optimizer keeps of a parameter.

    Attributes:
        beginning: (optimizer, group, parameter) to the entries before the parameter's first step. It says all of an
            entry's kind: shape, dtype, how it is spread, or that it is a plain number.
        of_group: numbers that it keeps in the parameter's group, and what they begin with.
        derived: entries that each step makes anew from others.
    """

    beginning: Callable[[Any, Mapping[str, Any], torch.Tensor], Entries]
    of_group: Mapping[str, int | float] = field(default_factory=dict)
    derived: tuple[str, ...] = ()


def _adamw(_optimizer: Any, group: Mapping[str, Any], parameter: torch.Tensor) -> Entries:
    place = parameter.device if group.get("fused") or group.get("capturable") else "cpu"  # as load_state_dict has it
    return {
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
        "step": torch.tensor(0.0, device=place),
    }


def _adamw_npu_fused(_optimizer: Any, _group: Mapping[str, Any], parameter: torch.Tensor) -> Entries:
    return {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter), "step": 0}


def _adamw_8bit(optimizer: Any, group: Mapping[str, Any], parameter: torch.Tensor) -> Entries:
    """bitsandbytes' own: codes, code books and block maxima; plain float32 for small tensors."""
    plain = inner(optimizer)
    kept = plain.state.pop(parameter, None)
    index = next(i for i, one in enumerate(plain.param_groups) if one is group)
    plain.init_state(group, parameter, index, [id(p) for p in group["params"]].index(id(parameter)))
    made = plain.state.pop(parameter)
    if kept is not None:
        plain.state[parameter] = kept
    return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in made.items()}


def _adafactor(_optimizer: Any, _group: Mapping[str, Any], parameter: torch.Tensor) -> Entries:
    if parameter.ndim < 2:
        return {"step": 0, "exp_avg_sq": torch.zeros_like(parameter)}
    rows, columns = parameter.shape[:-1], parameter.shape[:-2] + parameter.shape[-1:]
    return {"step": 0, "exp_avg_sq_row": parameter.new_zeros(rows), "exp_avg_sq_col": parameter.new_zeros(columns)}


def _lion(_optimizer: Any, _group: Mapping[str, Any], parameter: torch.Tensor) -> Entries:
    return {"exp_avg": torch.zeros_like(parameter)}


def _muon(_optimizer: Any, _group: Mapping[str, Any], parameter: torch.Tensor) -> Entries:
    return {"momentum_buffer": torch.zeros_like(parameter)}


def _schedule_free(_optimizer: Any, _group: Mapping[str, Any], parameter: torch.Tensor) -> Entries:
    """`y`: the weights that training goes on with; see finetune/optimizer.py's evaluation_weights."""
    return {"z": parameter.clone(), "exp_avg_sq": torch.zeros_like(parameter), "y": parameter.clone()}


STATES = {
    "adamw": State(_adamw),
    "adamw_npu_fused": State(_adamw_npu_fused),
    "adamw_8bit": State(_adamw_8bit),
    "adafactor": State(_adafactor, derived=("RMS",)),
    "lion": State(_lion),
    "muon": State(_muon),
    "schedule_free": State(_schedule_free, of_group={"k": 0, "weight_sum": 0.0, "lr_max": -1.0}),
}


@torch.no_grad()
def full_optimizer(model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """The optimizer's whole state on the CPU, as `exp_avg.NAME` for each trainable parameter; numbers have no dimension.

    A collective call, inside `evaluation_weights`. The tensors are copies: training may go on while they are written. A
    parameter without state (no gradient so far) has the state that the optimizer would begin with, so that every name
    is always there.

    Raises:
        RecipeError: the optimizer is DeepSpeed's, whose state only DeepSpeed reads.
        TypeError: not the state of the optimizer that the parameter's group names.
    """
    parameters = dict(trainable(model))
    _refuse_zero(parameters.values())
    if averaging(inner(optimizer)):
        raise TypeError("outside of evaluation_weights the parameters are not those to save")
    groups = _groups(optimizer)
    found = {}
    for name, parameter in parameters.items():
        group = groups[id(parameter)]
        kind = group.get("state", "adamw")
        state, begun = optimizer.state.get(parameter), STATES[kind].beginning(optimizer, group, parameter)
        state = state or begun
        if set(state) - set(STATES[kind].derived) != set(begun):
            raise TypeError(f"not the state of {kind}: {', '.join(sorted(state))}")
        values = {key: state[key] for key in begun} | {key: group[key] for key in STATES[kind].of_group}
        for key, value in values.items():
            found[f"{key}.{name}"] = _whole(_tensor(value).detach()).to("cpu", copy=True)
    return found


@torch.no_grad()
def load_full_optimizer(model: nn.Module, optimizer: Any, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `full_optimizer`, bit for bit; each process takes its part. Learning rates stay as they are.

    Schedule-free AdamW is ready to train then, its weights y in the parameters.

    Raises:
        CheckpointError: every entry that is missing, unknown, of another shape or dtype; nothing has been loaded then.
        RecipeError: the optimizer is DeepSpeed's.
    """
    parameters = dict(trainable(model))
    _refuse_zero(parameters.values())
    groups = _groups(optimizer)
    begun: dict[str, Entries] = {}
    for name, parameter in parameters.items():
        group = groups[id(parameter)]
        kind = STATES[group.get("state", "adamw")]
        begun[name] = kind.beginning(optimizer, group, parameter) | dict(kind.of_group)
    _check(tensors, {f"{key}.{name}": _tensor(like) for name, state in begun.items() for key, like in state.items()})
    for name, parameter in parameters.items():
        group, state = groups[id(parameter)], {}
        for key, like in begun[name].items():
            stored = tensors[f"{key}.{name}"]
            if not isinstance(like, torch.Tensor):
                state[key] = type(like)(stored.item())
            else:
                state[key] = like
                copy_part(stored, like)
        for key in STATES[group.get("state", "adamw")].of_group:
            group[key] = state.pop(key)
        if "y" in state:
            parameter.copy_(state.pop("y"))
            group["train_mode"] = True
        optimizer.state[parameter] = state


def _groups(optimizer: Any) -> dict[int, dict[str, Any]]:
    """Each parameter's group, by the parameter's id."""
    return {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}


def _tensor(value: Any) -> torch.Tensor:
    """A plain number as float64 or int64 without dimension, which hold it exactly."""
    if isinstance(value, torch.Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


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
