"""Optimizers and schedules by the names that transformers and the peers give them, with the settings that make them equal."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

from finetune.errors import did_you_mean
from finetune.migrate.draft import Draft
from finetune.optimizer import ADAM, OPTIMIZERS

PAGED = "its state is not paged to the host's memory here"
BITS = "its state is kept in 32 bits here"
TORCHAO = "torchao's own 8-bit state there, bitsandbytes' here: rounded by blocks of another size"
NOT_HERE = "is no optimizer of ours"


class Optimizer(NamedTuple):
    """Ours for a peer's; `why`: what is another thing about it."""

    ours: str
    why: str = ""


OPTIMIZER_NAMES = {
    "adamw_torch": Optimizer("adamw_torch"),
    "adamw_torch_fused": Optimizer("adamw_torch_fused"),
    "adamw_torch_npu_fused": Optimizer("adamw_torch_npu_fused"),
    "adamw_hf": Optimizer("adamw_torch", "transformers' own AdamW there, torch's here: the same update"),
    "adamw_apex_fused": Optimizer("adamw_torch", "apex there, torch here: the same update"),
    "adamw_torch_xla": Optimizer("adamw_torch", "torch_xla there, torch here: the same update"),
    "adamw_8bit": Optimizer("adamw_8bit"),
    "adamw_bnb_8bit": Optimizer("adamw_8bit"),
    "paged_adamw_8bit": Optimizer("adamw_8bit", PAGED),
    "paged_adamw_32bit": Optimizer("adamw_torch", PAGED),
    "paged_adamw": Optimizer("adamw_torch", PAGED),
    "adamw_torch_8bit": Optimizer("adamw_8bit", TORCHAO),
    "adamw_torch_4bit": Optimizer("adamw_8bit", "4 bits of state there, 8 here"),
    "ao_adamw_8bit": Optimizer("adamw_8bit", TORCHAO),
    "adafactor": Optimizer("adafactor"),
    "lion_32bit": Optimizer("lion"),
    "lion": Optimizer("lion"),
    "lion_8bit": Optimizer("lion", BITS),
    "paged_lion_32bit": Optimizer("lion", PAGED),
    "paged_lion_8bit": Optimizer("lion", BITS),
    "lion_pytorch": Optimizer("lion"),
    "muon": Optimizer("muon", "torch's Muon here: steps of AdamW's size, AdamW for what is no matrix; compare the first steps"),
    "schedule_free_adamw": Optimizer("schedule_free_adamw"),
}  # fmt: skip
# Known to transformers, and nothing here is near but AdamW.
OTHER_NAMES = (
    "adamw_anyprecision", "sgd", "adagrad", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit",
    "galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise",
    "galore_adafactor_layerwise", "lomo", "adalomo", "grokadamw", "schedule_free_radam", "schedule_free_sgd",
    "apollo_adamw", "apollo_adamw_layerwise", "stable_adamw", "ademamix", "ademamix_8bit", "paged_ademamix_32bit",
    "paged_ademamix_8bit", "optimi_adamw", "ao_adamw_fp8", "ao_adamw_4bit", "adopt_adamw", "came_pytorch", "dion",
    "sinkgd", "q_galore_adamw8bit", "flash_adamw", "flash_adam", "flash_sgd", "flash_sgdw", "flash_lion",
)  # fmt: skip
SHAPES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine_with_min_lr": "cosine",
    "warmup_stable_decay": "warmup_stable_decay",
}
OTHER_SHAPES = {
    "cosine_with_restarts": "cosine",
    "polynomial": "linear",
    "inverse_sqrt": "cosine",
    "reduce_lr_on_plateau": "constant",
    "cosine_warmup_with_min_lr": "cosine",
    "greedy": "constant",
    "one_cycle": "cosine",
    "rex": "linear",
}


def set_optimizer(draft: Draft, key: str, default: str, betas: tuple[str, str, str]) -> None:
    """`train.optim` with its betas and epsilon.

    Args:
        key: the peer's for the name. default: its own, written as AdamW of torch where it is a fused form of that.
        betas: the peer's keys of beta1, beta2 and epsilon.
    """
    name = draft.get(key, default)
    if name in OPTIMIZER_NAMES:
        ours, why = OPTIMIZER_NAMES[name]
        if why:
            draft.changed(key, why)
    elif name in OTHER_NAMES:
        ours = "adamw_torch"
        draft.lost(key, NOT_HERE, "train.optim: adamw_torch")
    else:
        ours = "adamw_torch"
        draft.problem(key, f"{name!r} is no optimizer{did_you_mean(name, (*OPTIMIZER_NAMES, *OTHER_NAMES))}")
    if draft.values.get(key) is None and ours == "adamw_torch_fused":
        ours = "adamw_torch"  # the same update, and it runs on every device
    package = OPTIMIZERS[ours].package
    if package and importlib.util.find_spec(package[1]) is None:
        draft.lost(key, f"needs the package {package[0]} (pip install {package[0]}), not installed here", "adamw_torch")
        ours = "adamw_torch"
    draft.put("train.optim", ours, key)
    _betas(draft, ours, betas)


def _betas(draft: Draft, ours: str, keys: tuple[str, str, str]) -> None:
    """AdamW's settings; transformers hands beta1 and beta2 to Lion as well, whose own second one is 0.99."""
    if ours == "lion":
        beta1, beta2 = draft.get(keys[0], 0.9), draft.get(keys[1], 0.999)
        draft.write("train.optim_args", {"beta1": beta1, "beta2": beta2}, f"adam_beta1 and adam_beta2 of {draft.peer}")
        draft.changed(
            "train.optim_args",
            f"{draft.peer} gives Lion the betas of AdamW ({beta1}, {beta2}); Lion's own are 0.9, 0.99",
        )
        return
    for name, key in zip(ADAM, keys, strict=True):
        value = draft.get(key)
        if value is not None and name in OPTIMIZERS[ours].uses:
            draft.put(f"train.{name}", value, key)
        elif value is not None:
            draft.idle(key, f"{ours} does not read it")


def set_schedule(draft: Draft, key: str, default: str, options: dict[str, Any]) -> None:
    """`train.lr_scheduler_type`, and what of its keyword arguments has a key here.

    Args:
        options: the schedule's keyword arguments, as transformers has them.
    """
    name = str(draft.get(key, default))
    shape = SHAPES.get(name) or OTHER_SHAPES.get(name, "")
    if not shape:
        draft.problem(key, f"{name!r} is no schedule{did_you_mean(name, (*SHAPES, *OTHER_SHAPES))}")
        return
    if name not in SHAPES:
        draft.lost(key, "no schedule here has this form", f"train.lr_scheduler_type: {shape}")
    if draft.recipe.get("train.optim") == "schedule_free_adamw" and shape != "constant":
        draft.changed(key, "schedule-free AdamW averages instead of decaying: the rate is constant after the warm-up")
        shape = "constant"
    draft.put("train.lr_scheduler_type", shape, key)
    _options(draft, shape, dict(options))


def _options(draft: Draft, shape: str, options: dict[str, Any]) -> None:
    peak = draft.recipe.get("train.learning_rate")
    for name in ("min_lr", "min_lr_rate", "min_lr_ratio", "num_decay_steps"):
        if name in options and not isinstance(options[name], int | float):
            draft.problems.append(
                f"{draft.given.file}: {name} of the schedule: a number is needed, got {options.pop(name)!r}"
            )
    least = options.pop("min_lr_rate", None) or options.pop("min_lr_ratio", None)
    if "min_lr" in options and isinstance(peak, int | float) and peak > 0:
        least = options.pop("min_lr") / peak
    if least and least >= 1 and shape != "constant":
        draft.changed("train.min_lr_ratio", f"{least:g} of the peak as the lowest rate is a constant rate")
        draft.recipe["train.lr_scheduler_type"] = "constant"
    elif least and shape != "constant":
        draft.write("train.min_lr_ratio", round(least, 10), "the lowest rate, as a share of the peak")
    decay, steps = options.pop("num_decay_steps", None), draft.recipe.get("train.max_steps")
    if shape == "warmup_stable_decay" and decay and steps:
        draft.write("train.decay_ratio", round(decay / steps, 10), f"{decay} of {steps} steps")
    elif shape == "warmup_stable_decay":
        draft.lost(
            "num_decay_steps", "the decay is told as a share of the steps, whose number the file does not say",
            "train.decay_ratio: 0.1",
        )  # fmt: skip
    for name, value in options.items():
        draft.lost(f"{name} of the schedule", f"{value}: has no key here")


def set_warmup(draft: Draft, steps: float | None, share: float | None, keys: tuple[str, str], schedule: str) -> None:
    """`train.warmup_steps` or `train.warmup_ratio`. A step number below 1 is a share; steps go before a share.

    Args:
        keys: the peer's for steps and share. schedule: its name there; transformers' `constant` has no warm-up.
    """
    if steps is not None and 0 < steps < 1:
        steps, share, keys = None, steps, (keys[0], keys[0])
    if schedule == "constant" and (steps or share):
        draft.changed(keys[0] if steps else keys[1], "the schedule `constant` ignores it there: no warm-up")
        steps, share = 0, None
    if steps:
        draft.put("train.warmup_steps", int(steps), keys[0])
    elif share:
        draft.put("train.warmup_ratio", share, keys[1])
    else:
        draft.write("train.warmup_ratio", 0.0, "" if steps == 0 else f"default of {draft.peer}: none")
