"""What depends on how the processes share the model: one process, DDP (a copy each) or FSDP2 (a part each)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from finetune.device import launcher_setting
from finetune.errors import RecipeError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finetune.device import Placement

# accelerate's DistributedType -> how the processes share the model
ENGINES = {"NO": "single", "MULTI_CPU": "ddp", "MULTI_GPU": "ddp", "MULTI_NPU": "ddp", "FSDP": "fsdp2"}
MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's state beside its step


def check_launcher() -> None:
    """To be called before accelerate reads the launcher's settings.

    Raises:
        RecipeError: FSDP is asked for in a way that is not supported, every such setting with what to do instead.
    """
    if launcher_setting("ACCELERATE_USE_FSDP") != "true":
        return
    refused = {
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true"): "every process loads the base itself; set it to false",
        ("FSDP_ACTIVATION_CHECKPOINTING", "true"): "set train.gradient_checkpointing in the recipe instead",
        ("FSDP_OFFLOAD_PARAMS", "true"): "not supported; set it to false",
    }
    version = launcher_setting("FSDP_VERSION") or "1"  # accelerate's default
    problems = [] if version == "2" else [f"launcher: fsdp_version: {version} is not supported; set it to 2"]
    problems += [
        f"launcher: {name.lower()}: {problem}"
        for (name, value), problem in refused.items()
        if launcher_setting(name) == value
    ]
    if problems:
        raise RecipeError(problems)


def engine_of(accelerator: Accelerator) -> str:
    """How the launcher asks the processes to share the model: a value of ENGINES.

    Raises:
        RecipeError: in a way that is not supported.
    """
    if launcher_setting("ACCELERATE_USE_FSDP") == "true" and accelerator.distributed_type.value == "MULTI_CPU":
        _shard_on_cpu(accelerator)
    kind = accelerator.distributed_type.value
    if kind not in ENGINES:
        raise RecipeError(f"launcher: {kind} is not supported; use a file of scripts/accelerate/")
    return ENGINES[kind]


def _shard_on_cpu(accelerator: Accelerator) -> None:
    """accelerate shards on accelerators only and would run DDP here without a word; torch itself shards on a CPU too.

    This is how FSDP2 is tested without a GPU.
    """
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    if torch.accelerator.is_available():  # torch would shard over it
        raise RecipeError("launcher: FSDP on device: cpu runs only on a machine without accelerator")
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    accelerator.state.distributed_type = DistributedType.FSDP


def prepare(placement: Placement, model: nn.Module, optimizer: Any) -> tuple[Any, Any]:
    """Model and optimizer as the engine needs them.

    DDP wraps the model; FSDP2 changes it in place: parameters become DTensors of which this process holds a part.

    Raises:
        RecipeError: FSDP2 finds no transformer blocks to shard by.
    """
    if placement.engine == "fsdp2":
        plugin = placement.accelerator.state.fsdp_plugin
        plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or _blocks(model)
        # Our forward returns a view of the logits; no stage writes into it, which is all that the warning is about.
        warnings.filterwarnings(
            "ignore", message="FSDP2-wrapped module .* returned a view tensor", category=UserWarning
        )
    return placement.accelerator.prepare(model, optimizer)


def shards(placement: Placement) -> bool:
    """Whether a process holds a part of the model only, so that it can neither answer nor save by itself."""
    return placement.engine == "fsdp2"


def clip_gradients(placement: Placement, model: nn.Module, max_norm: float) -> float:
    """Clips the gradients of all processes as one vector; its norm before that, the same on every process."""
    norm = placement.accelerator.clip_grad_norm_(model.parameters(), max_norm)
    return float(_whole(norm))


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Trainable parameters by the name they have in the peft model, whatever wraps it: `base_model.model. ...`."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name[name.index("base_model.") :], parameter


def full_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the whole trainable parameters on the CPU, the same for every engine and number of processes.

    A collective call: every process makes it, and gets all of them.
    """
    return {name: _whole(parameter.detach()).cpu().clone() for name, parameter in trainable(model)}


@torch.no_grad()
def load_full_tensors(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `full_tensors`, into a model of any engine; each process takes its part.

    Raises:
        RecipeError: a parameter is missing, unknown or of another shape; nothing has been loaded then.
    """
    parameters = dict(trainable(model))
    _check(tensors, {name: tuple(parameter.shape) for name, parameter in parameters.items()})
    for name, parameter in parameters.items():
        _copy_part(tensors[name], parameter)


def full_optimizer(model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """Adam's whole state on the CPU: `exp_avg.NAME`, `exp_avg_sq.NAME` and `step.NAME` for each trainable parameter.

    A collective call. Parameters that have not had a step yet have no entries.
    """
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
        RecipeError: an entry is missing, unknown or of another shape; nothing has been loaded then.
    """
    parameters = dict(trainable(model))
    stepped = {name for name in parameters if f"step.{name}" in tensors}
    expected = {f"{key}.{name}": tuple(parameters[name].shape) for name in stepped for key in MOMENTS}
    _check(tensors, expected | {f"step.{name}": () for name in stepped})
    for name in stepped:
        parameter = parameters[name]
        state = optimizer.state[parameter] = {"step": tensors[f"step.{name}"].clone()}
        for key in MOMENTS:
            state[key] = torch.zeros_like(parameter, requires_grad=False)
            _copy_part(tensors[f"{key}.{name}"], state[key])


@contextmanager
def whole_for_inference(placement: Placement, model: nn.Module) -> Iterator[None]:
    """Inside: an FSDP2 model computes on each process alone, for passes whose number differs between processes.

    The whole base must fit on every device meanwhile. Training goes on after it as before. Other engines: nothing.
    Entering is a collective call.
    """
    if placement.engine != "fsdp2":
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        usual = placement.accelerator.state.fsdp_plugin.reshard_after_forward
        for part in parts:
            part.set_reshard_after_forward(usual and part is not parts[0], recurse=False)  # torch's rule for the root
            part.reshard()


def _blocks(model: nn.Module) -> list[str]:
    """Class names of the transformer blocks, as transformers lists them for splitting a model over devices."""
    present = {type(module).__name__ for module in model.modules()}
    named = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    if not named & present:
        raise RecipeError(
            "launcher: FSDP2 finds no transformer blocks in this model; name their class in "
            "fsdp_transformer_layer_cls_to_wrap of the config file"
        )
    return sorted(named & present)


def _whole(tensor: Any) -> torch.Tensor:
    """A DTensor gathered from all processes; another tensor as it is."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


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
