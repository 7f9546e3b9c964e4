"""Optimizers by the name a recipe gives them: who makes them, which settings they read, and where they run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from finetune.recipe_train import TrainSection

ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")  # settings that not every optimizer reads
UNSHARDED = ("single", "ddp")
ELEMENTWISE = (*UNSHARDED, "fsdp2", "zero2", "zero3")  # a part of a tensor is updated as the whole would be


class Arg(NamedTuple):
    """A setting of one optimizer only: `least` <= value < `below`."""

    default: float
    least: float
    below: float
    whole: bool = False


@dataclass(frozen=True)
class Kind:
    """One row: an optimizer as a recipe names it.

    Attributes:
        build: (parameter groups, section) to the optimizer; the groups are those of finetune/groups.py.
        state: of what it keeps for a parameter, a key of finetune/fullstate.py's STATES.
        uses: keys of `train` that it reads; the others of ADAM must be left at their defaults.
        args: its own settings, the keys of `train.optim_args`.
        package: that pip installs, with the name that python imports, where it is not among our dependencies.
        devices, engines: where it runs. `instead`: what to take elsewhere.
        freezes_down: lora_A does not learn, and groups tell what stands before each lora_B.
    """

    build: Callable[[list[dict[str, Any]], TrainSection], Any]
    state: str
    uses: tuple[str, ...]
    instead: str
    args: dict[str, Arg] = field(default_factory=dict)
    package: tuple[str, str] | None = None
    devices: tuple[str, ...] = ("cpu", "cuda", "npu")
    engines: tuple[str, ...] = ELEMENTWISE
    freezes_down: bool = False


def _adam(section: TrainSection) -> dict[str, Any]:
    return {
        "lr": section.learning_rate, "betas": (section.adam_beta1, section.adam_beta2), "eps": section.adam_epsilon,
        "weight_decay": section.weight_decay,
    }  # fmt: skip


def _adamw(groups: list[dict[str, Any]], section: TrainSection) -> Any:
    import torch

    return torch.optim.AdamW(groups, **_adam(section))


def _adamw_fused(groups: list[dict[str, Any]], section: TrainSection) -> Any:
    import torch

    return torch.optim.AdamW(groups, **_adam(section), fused=True)


def _adamw_npu_fused(groups: list[dict[str, Any]], section: TrainSection) -> Any:
    from finetune.device.npu import fused_adamw

    return fused_adamw()(groups, **_adam(section))


def _adamw_8bit(groups: list[dict[str, Any]], section: TrainSection) -> Any:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, **_adam(section), min_8bit_size=int(section.optim_args["min_8bit_size"]))


def _adafactor(groups: list[dict[str, Any]], section: TrainSection) -> Any:
    """Steps of the recipe's own rate, as transformers' Trainer takes them: a LoRA B starts at 0, where a step relative
    to the weights' size would hardly move it."""
    from transformers.optimization import Adafactor

    args = section.optim_args
    return Adafactor(
        groups, lr=section.learning_rate, eps=(args["epsilon"], 1e-3), clip_threshold=args["clip_threshold"],
        decay_rate=args["decay_rate"], weight_decay=section.weight_decay, scale_parameter=False, relative_step=False,
        warmup_init=False,
    )  # fmt: skip


def _lion(groups: list[dict[str, Any]], section: TrainSection) -> Any:
    from lion_pytorch import Lion

    betas = section.optim_args["beta1"], section.optim_args["beta2"]
    return Lion(groups, lr=section.learning_rate, betas=betas, weight_decay=section.weight_decay)


def _muon(groups: list[dict[str, Any]], section: TrainSection) -> Any:
    from finetune.muon import MuonWithAdamW

    args = section.optim_args
    return MuonWithAdamW(groups, _adam(section), args["momentum"], int(args["ns_steps"]))


def _lora_fa(groups: list[dict[str, Any]], section: TrainSection) -> Any:
    from finetune.lora_fa import LoraFA

    return LoraFA(groups, **_adam(section))


def _schedule_free(groups: list[dict[str, Any]], section: TrainSection) -> Any:
    """Warm-up comes with the rates that the loop sets, so that the library needs none of its own."""
    from schedulefree import AdamWScheduleFree

    args = section.optim_args
    optimizer = AdamWScheduleFree(groups, **_adam(section), r=args["r"], weight_lr_power=args["weight_lr_power"])
    optimizer.train()
    return optimizer


OPTIMIZERS = {
    "adamw_torch": Kind(_adamw, "adamw", ADAM, instead=""),
    "adamw_torch_fused": Kind(_adamw_fused, "adamw", ADAM, instead="adamw_torch", devices=("cpu", "cuda")),
    "adamw_torch_npu_fused": Kind(
        _adamw_npu_fused, "adamw_npu_fused", ADAM, instead="adamw_torch", devices=("npu",), engines=("single",),
    ),
    "adamw_8bit": Kind(
        _adamw_8bit, "adamw_8bit", ADAM, instead="adafactor, or adamw_torch",
        args={"min_8bit_size": Arg(4096, 0, inf, whole=True)}, package=("bitsandbytes", "bitsandbytes"),
        devices=("cpu", "cuda"), engines=UNSHARDED,
    ),
    "adafactor": Kind(
        _adafactor, "adafactor", (), instead="adamw_torch",
        args={"decay_rate": Arg(-0.8, -1, 0), "clip_threshold": Arg(1.0, 1e-9, inf), "epsilon": Arg(1e-30, 0, 1)},
        engines=UNSHARDED,
    ),
    "lion": Kind(
        _lion, "lion", (), instead="adamw_torch", args={"beta1": Arg(0.9, 0, 1), "beta2": Arg(0.99, 0, 1)},
        package=("lion-pytorch", "lion_pytorch"),
    ),
    "muon": Kind(
        _muon, "muon", ADAM, instead="adamw_torch",
        args={"momentum": Arg(0.95, 0, 1), "ns_steps": Arg(5, 1, 100, whole=True)}, engines=UNSHARDED,
    ),
    "lora_fa": Kind(_lora_fa, "adamw", ADAM, instead="adamw_torch", engines=UNSHARDED, freezes_down=True),
    "schedule_free_adamw": Kind(
        _schedule_free, "schedule_free", ADAM, instead="adamw_torch",
        args={"r": Arg(0.0, 0, inf), "weight_lr_power": Arg(2.0, 0, inf)},
        package=("schedulefree", "schedulefree"), engines=(*UNSHARDED, "fsdp2"),
    ),
}  # fmt: skip


def check_settings(section: TrainSection, defaults: dict[str, Any]) -> list[str]:
    """Settings that the chosen optimizer would not read, and its package when it is not installed; torch is not needed.

    Args:
        defaults: of the section's keys.
    """
    kind = OPTIMIZERS[section.optim]
    problems = [
        f"`{key}` has no effect with `optim: {section.optim}`; leave it out"
        for key in ADAM
        if key not in kind.uses and getattr(section, key) != defaults[key]
    ]
    if section.optim == "schedule_free_adamw":
        if section.lr_scheduler_type != "constant":
            problems.append(
                "`optim: schedule_free_adamw` averages instead of decaying: set `lr_scheduler_type: constant`"
            )
        if section.adam_beta1 == 0:
            problems.append("`optim: schedule_free_adamw` needs an `adam_beta1` above 0: its share of the average")
    if kind.freezes_down and section.loraplus_lr_ratio != defaults["loraplus_lr_ratio"]:
        problems.append(f"`loraplus_lr_ratio` has no effect with `optim: {section.optim}`, where lora_A does not learn")
    if kind.package and importlib.util.find_spec(kind.package[1]) is None:
        pip = kind.package[0]
        problems.append(f"`optim: {section.optim}` needs the package {pip}, which is not installed; pip install {pip}")
    return problems


def filled_args(optim: str, given: dict[str, float]) -> dict[str, float]:
    """`optim_args` with every default.

    Raises:
        ValueError: a key that is not the optimizer's, a value out of its range.
    """
    known = OPTIMIZERS[optim].args
    unknown = [key for key in given if key not in known]
    if unknown:
        allowed = f"it has {', '.join(known)}" if known else "it has none of its own"
        raise ValueError(f"{', '.join(unknown)}: not a setting of {optim}; {allowed}")
    for key, value in given.items():
        arg = known[key]
        if not arg.least <= value < arg.below or (arg.whole and value != int(value)):
            kind = "a whole number" if arg.whole else "a number"
            raise ValueError(f"{key}: should be {kind} from {arg.least:g}{_up_to(arg.below)}; got {value:g}")
    return {key: arg.default for key, arg in known.items()} | given


def _up_to(below: float) -> str:
    return "" if below == inf else f" and below {below:g}"


def inner(optimizer: Any) -> Any:
    """The optimizer itself, out of accelerate's wrapping."""
    return getattr(optimizer, "optimizer", optimizer)


@contextmanager
def evaluation_weights(optimizer: Any) -> Iterator[None]:
    """Inside, the parameters are those to look at, to save and to serve; afterwards bit for bit what they were.

    Only schedule-free AdamW has two kinds: it trains y = (1 - beta1) z + beta1 x and its result is x, the average of z
    (arXiv 2405.15682). Turning back by arithmetic would round, and a look would then change the run: y is kept, in the
    state as `y`, where a checkpoint finds it.
    """
    plain = inner(optimizer)
    if not averaging(plain):
        yield
        return
    kept = {parameter: parameter.detach().clone() for parameter, state in plain.state.items() if "z" in state}
    for parameter, y in kept.items():
        plain.state[parameter]["y"] = y
    plain.eval()
    try:
        yield
    finally:
        plain.train()
        for parameter, y in kept.items():
            parameter.data.copy_(y)
            del plain.state[parameter]["y"]


def end_training(optimizer: Any) -> None:
    """The parameters are those of `evaluation_weights` from now on, and stay when the optimizer goes."""
    plain = inner(optimizer)
    if averaging(plain):
        plain.eval()
    if getattr(plain, "is_fused_optimizer", False):
        # Huawei's: it has moved parameters and gradients into its own memory without making them owners of it. It is
        # freed with the optimizer, and the next tensors would be written over the trained weights.
        for parameter in (parameter for group in plain.param_groups for parameter in group["params"]):
            parameter.data, parameter.grad = parameter.data.clone(), None


def averaging(optimizer: Any) -> bool:
    """Whether the parameters are, for training, others than those to look at."""
    return bool(optimizer.param_groups[0].get("train_mode"))
