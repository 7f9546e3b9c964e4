"""What depends on how the processes share the model: one process, DDP (a copy each), FSDP2 or ZeRO (a part each)."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from finetune.device import launcher_setting
from finetune.errors import RecipeError
from finetune.optimizer import OPTIMIZERS, inner
from finetune.recipe_train import device_problems

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finetune.device import Placement
    from finetune.recipe_train import TrainSection

# accelerate's DistributedType -> how the processes share the model
ENGINES = {
    "NO": "single", "MULTI_CPU": "ddp", "MULTI_GPU": "ddp", "MULTI_NPU": "ddp", "FSDP": "fsdp2", "DEEPSPEED": "zero",
}  # fmt: skip


def check_launcher() -> None:
    """To be called before accelerate reads the launcher's settings.

    Raises:
        RecipeError: an engine is asked for in a way that is not supported, every such setting with what to do instead.
    """
    if launcher_setting("ACCELERATE_USE_DEEPSPEED") == "true":
        if importlib.util.find_spec("deepspeed") is None:
            raise RecipeError("launcher: DeepSpeed is not installed; pip install deepspeed")
        third = launcher_setting("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
        if third and launcher_setting("ACCELERATE_DEEPSPEED_ZERO3_INIT") != "false":  # accelerate's default is true
            raise RecipeError("launcher: zero3_init_flag: every process loads the base itself; set it to false")
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
    """How the launcher asks the processes to share the model: a value of ENGINES, with ZeRO's stage: zero2, zero3.

    Raises:
        RecipeError: in a way that is not supported.
    """
    if launcher_setting("ACCELERATE_USE_FSDP") == "true" and accelerator.distributed_type.value == "MULTI_CPU":
        _shard_on_cpu(accelerator)
    kind = accelerator.distributed_type.value
    if kind not in ENGINES:
        raise RecipeError(f"launcher: {kind} is not supported; use a file of scripts/accelerate/")
    if kind != "DEEPSPEED":
        return ENGINES[kind]
    stage = accelerator.state.deepspeed_plugin.zero_stage
    if stage not in (2, 3):
        raise RecipeError(f"launcher: zero_stage: {stage} is not supported; set it to 2 or 3")
    # Whatever zero3_init_flag says, transformers would spread every model it loads from now on, also the one that answers.
    from transformers.integrations import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    return f"zero{stage}"


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

    DDP and ZeRO wrap the model; FSDP2 and ZeRO-3 change it in place: this process then holds a part of each parameter.

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
    if is_zero(placement):
        # DeepSpeed 0.19 calls these by their old names; torch 2.13 would say so at every step.
        old = r".torch\.distributed\.(all_gather_into|reduce_scatter)_tensor. is deprecated"
        warnings.filterwarnings("ignore", message=old, category=FutureWarning)
        settings = placement.accelerator.state.deepspeed_plugin.deepspeed_config
        settings |= {"train_micro_batch_size_per_gpu": 1, "zero_allow_untested_optimizer": True}  # the loop batches
    if placement.engine == "ddp":
        # At its start DDP sends every weight from the first process to the others, which torchao's tensors refuse; each
        # process has quantised the same ones.
        quantised = [name for name, weight in model.named_parameters() if type(weight).__module__.startswith("torchao")]
        model._ddp_params_and_buffers_to_ignore = quantised  # type: ignore[assignment]
    return placement.accelerator.prepare(model, optimizer)


def shards(placement: Placement) -> bool:
    """Whether a process holds a part of the model only, so that it can neither answer nor save by itself."""
    return placement.engine in ("fsdp2", "zero3")


def is_zero(placement: Placement) -> bool:
    """Whether DeepSpeed drives the steps."""
    return placement.engine in ("zero2", "zero3")


def check_checkpoints(placement: Placement, save_steps: int, resume: str | None) -> None:
    """Raises RecipeError when checkpoints are asked for where there can be none."""
    if is_zero(placement) and (save_steps or resume):
        raise RecipeError(
            f"train.save_steps: {save_steps}: checkpoints and --resume don't work under DeepSpeed; launch with "
            "scripts/accelerate/fsdp2.yaml, or set it to 0"
        )


def let_go(model: Any) -> None:
    """After forward passes without a backward one: under FSDP2 what the outermost module had gathered is parts again.

    Until then its parameters (a score head is among them) are others than those that the optimizer knows.
    """
    if hasattr(model, "reshard"):
        model.reshard()


def check_training(placement: Placement, section: TrainSection) -> None:
    """Raises RecipeError: all that the section asks for and can't have on this device or with this engine."""
    problems, kind, engine = (
        device_problems(section, placement.device.name),
        OPTIMIZERS[section.optim],
        placement.engine,
    )
    if engine not in kind.engines:
        problems.append(f"train.optim: {section.optim} does not run under {engine}; use {kind.instead}")
    if section.activation_offloading and shards(placement):
        problems.append(f"train.activation_offloading: not with {engine}; set train.gradient_checkpointing instead")
    if problems:
        raise RecipeError(problems)


def check_method(placement: Placement, kind: str) -> None:
    """Raises RecipeError where a PEFT method was never tried with the engine, or can't work with it."""
    from finetune.recipe_peft import PROMPTED

    refused = kind != "lora" if is_zero(placement) else kind in PROMPTED and shards(placement)
    if refused:
        instead = "one process or DDP" if kind in PROMPTED else "scripts/accelerate/fsdp2.yaml"
        raise RecipeError(f"peft_type: {kind} does not run under {placement.engine}; launch with {instead}")


@contextmanager
def micro_batch(placement: Placement, model: Any, last: bool) -> Iterator[None]:
    """Around forward and backward of a micro-batch: gradients are exchanged after the last one of a step only.

    (ZeRO and FSDP2 keep what they need of the earlier ones themselves.)
    """
    if is_zero(placement):
        model.set_gradient_accumulation_boundary(last)
        yield
    else:
        with nullcontext() if last else placement.accelerator.no_sync(model):
            yield


def backward(placement: Placement, model: Any, loss: torch.Tensor) -> None:
    """Adds the gradients of `loss`. Every engine averages them over the processes."""
    if is_zero(placement):
        model.backward(loss, scale_wrt_gas=False)
    else:
        placement.accelerator.backward(loss)


def sum_on_host(placement: Placement, numbers: torch.Tensor) -> list[int]:
    """Sums over the processes of numbers that the host knows, without waiting for the device."""
    if placement.accelerator.num_processes > 1:
        torch.distributed.all_reduce(numbers, group=placement.host_group)
    return numbers.tolist()


def clip_gradients(placement: Placement, model: Any, max_norm: float) -> torch.Tensor:
    """Clips the gradients of all processes as one vector; its norm () before that, the same on every process."""
    if is_zero(placement):
        from deepspeed.utils import safe_get_full_grad

        model.optimizer.clip_grad = max_norm  # DeepSpeed clips within its step
        norms = [safe_get_full_grad(parameter).norm() for parameter in model.parameters() if parameter.requires_grad]
        return torch.stack(norms).norm()
    norm = placement.accelerator.clip_grad_norm_(model.parameters(), max_norm)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # FSDP2's is a DTensor


def step(placement: Placement, model: Any, optimizer: Any, apply: bool) -> None:
    """The optimizer's step, unless `apply` is false, and gradients back to nothing.

    Raises:
        RecipeError: a step is not to be applied under ZeRO, which can't leave one out.
    """
    if is_zero(placement):
        if not apply:
            raise RecipeError(
                "launcher: DeepSpeed can't leave out a step, and this one has no trained token; use FSDP2"
            )
        model.step()
        return
    if apply:
        optimizer.step()
    # A fused optimizer keeps all gradients in one piece of memory, which must stay.
    optimizer.zero_grad(set_to_none=not getattr(inner(optimizer), "is_fused_optimizer", False))


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
