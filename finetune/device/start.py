"""The device of a run: which it is, with which dtype and attention, and accelerate's processes on it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.device.environment import launcher_setting
from finetune.device.row import Device
from finetune.device.table import DEVICES
from finetune.errors import RecipeError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from finetune.recipe import Recipe


HOST_BACKEND = "gloo"  # of torch.distributed, for numbers in the host's memory


@dataclass(frozen=True)
class Placement:
    """Where and how a run computes: accelerate's view of the processes plus the row of the table.

    `attention` and `generation_attention` are transformers' words. `engine` is how the processes share the model, one of
    finetune/engine.py's ENGINES. `host_group` is the group in which they exchange numbers that are in the host's memory.
    """

    accelerator: Accelerator
    device: Device
    dtype: str
    attention: str
    generation_attention: str
    engine: str = "single"
    host_group: Any = None

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, self.dtype)

    @property
    def sum_dtype(self) -> torch.dtype:
        """Of sums over many numbers: float64 where the device computes in it."""
        import torch

        return torch.float64 if self.device.float64 else torch.float32

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
    device = choose(recipe.device)
    # torch.distributed.nn keeps the group of its import time in default arguments. Imported later (by DDP, through
    # dynamo) it would keep the group's threads alive to the end of the process, where they abort it now and then.
    import torch.distributed.nn.functional
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    from finetune.engine import check_launcher, engine_of

    check_launcher()
    attention, generation_attention = attentions(recipe.model.attn_implementation, device)
    _be_deterministic(recipe.full_determinism, device)
    handlers: list[Any] = [DistributedDataParallelKwargs(gradient_as_bucket_view=True)]
    zero = launcher_setting("ACCELERATE_USE_DEEPSPEED") == "true"
    if zero and device.name == "cpu":  # with cpu=True accelerate would leave DeepSpeed out without a word
        handlers.append(InitProcessGroupKwargs(backend=HOST_BACKEND))
    try:
        accelerator = Accelerator(
            cpu=device.name == "cpu" and not zero,
            mixed_precision="no",  # the recipe's dtype decides, through Placement.autocast, not the launcher's settings
            log_with=list(recipe.report_to) or None,
            project_dir=str(recipe.output_dir),
            kwargs_handlers=handlers,
        )
        device.prepare()
        dtype = dtype_of(recipe.model.dtype, device)  # asks the chip: this process's own, which accelerate has set
    except RuntimeError as error:
        if device.explain is None:
            raise
        raise RecipeError(
            f"device: {device.name!r} is there but does not work: {device.explain(str(error))}"
        ) from error
    if accelerator.device.type != device.name:
        raise RecipeError(
            f"device: {device.name!r} is the recipe's, but accelerate takes {accelerator.device.type!r} on this machine; "
            f"set device: {accelerator.device.type}, or hide the other device from the process"
        )
    engine, group = engine_of(accelerator), None
    if accelerator.num_processes > 1 and device.backend != HOST_BACKEND:
        name_host_network()
        group = torch.distributed.new_group(backend=HOST_BACKEND)
    return Placement(accelerator, device, dtype, attention, generation_attention, engine, group)


def name_host_network() -> None:
    """gloo takes the network that the host's name resolves to, often loopback: it is given the one named for the device.

    NCCL and HCCL read a name as the beginning of one, or after `=` as a whole one.
    """
    import psutil

    for variable in ("HCCL_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        name = os.environ.get(variable, "").removeprefix("=")
        if name in psutil.net_if_addrs():
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _be_deterministic(asked: bool, device: Device) -> None:
    """torch's switch, for this process; an operation without a deterministic kernel raises from now on and is named."""
    import torch

    if asked:
        for variable, value in device.deterministic.items():
            os.environ.setdefault(variable, value)
    torch.use_deterministic_algorithms(asked)


def environment(device: Device | None = None) -> dict[str, Any]:
    """What a manifest needs to say about this machine; nothing that identifies it.

    Args:
        device: that is computed on; None: whichever accelerator is there.
    """
    import torch

    rows = DEVICES.values() if device is None else [device]
    used = next((row for row in rows if row.name != "cpu" and row.available()), None)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "accelerator": used and used.chip(),
        **({"accelerator_memory_gib": round(used.memory() / 2**30, 1)} if used else {}),
    }


def first_available() -> Device:
    """What `device: auto` takes on this machine."""
    return next(DEVICES[kind] for kind in ("npu", "cuda", "cpu") if DEVICES[kind].available())


def choose(name: str) -> Device:
    """The row of the recipe's `device`.

    Raises:
        RecipeError: there is none on this machine, with the reason.
    """
    if name == "auto":
        return first_available()
    reason = DEVICES[name].why_not()
    if reason:
        here = ", ".join(row.name for row in DEVICES.values() if row.available())
        raise RecipeError(f"device: {name!r} is not to be had on this machine: {reason}; available: {here}")
    return DEVICES[name]


def attentions(asked: str, device: Device) -> tuple[str, str]:
    """transformers' words for the attention that trains and the one that answers.

    Raises:
        RecipeError: the device has no such attention.
    """
    if asked == "auto":
        return next(iter(device.attention.values())), device.attention[device.generation_attention]
    problem = attention_problem(asked, device)
    if problem:
        raise RecipeError(problem)
    return device.attention[asked], device.attention[asked]


def attention_problem(asked: str, device: Device) -> str:
    """A line where the device has no such attention, else ""."""
    if asked == "auto" or asked in device.attention:
        return ""
    instead = f"; {device.attention_instead}" if device.attention_instead else ""
    allowed = ", ".join(device.attention)
    return f"model.attn_implementation: {asked!r} does not run on {device.name}{instead}; allowed: auto, {allowed}"


def dtype_of(asked: str, device: Device) -> str:
    """The dtype of the base's weights and of matrix products.

    Raises:
        RecipeError: the device, or this very chip, does not compute in it.
    """
    if asked not in ("auto", *device.dtypes):
        allowed = ", ".join(device.dtypes)
        raise RecipeError(f"model.dtype: {asked!r} does not run on {device.name}; allowed: {allowed}")
    if asked == "auto":
        return "bfloat16" if device.bfloat16() else "float32"
    if asked == "bfloat16" and not device.imitates_bfloat16 and not device.bfloat16():
        raise RecipeError(f"model.dtype: 'bfloat16': {device.chip()} does not compute in it; use float32 (or auto)")
    return asked
