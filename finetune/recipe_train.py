"""The section of the loop: batches, optimizer, schedule, what is saved and looked at."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from finetune.device import DEVICES
from finetune.optimizer import OPTIMIZERS, check_settings, filled_args
from finetune.recipe_stages import Section


class TrainSection(Section):
    """The loop. `global_batch_size` counts sequences per optimizer step over all devices, whatever the hardware.

    `optim_args`: the optimizer's own settings, see finetune/optimizer.py. `loraplus_lr_ratio`: rate of LoRA's B over
    that of A. `lr_groups`: pattern of parameter names to their rate. `warmup_steps` goes before `warmup_ratio`.
    `min_lr_ratio`: where the decay ends, `decay_ratio`: its share of the steps under `warmup_stable_decay`.
    `save_steps`: optimizer steps between checkpoints, 0 for none. `eval_steps`: steps between looks at the held-out
    loss, 0 for none; a look with the best loss so far is saved as well. `on_nonfinite: skip` leaves out a step whose
    loss or gradient is not finite, at most `max_skipped_steps` of them.
    """

    global_batch_size: int = Field(16, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    max_steps: int | None = Field(None, ge=1)
    num_train_epochs: float | None = Field(None, gt=0)
    optim: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_torch_npu_fused",
        "adamw_8bit",
        "adafactor",
        "lion",
        "muon",
        "schedule_free_adamw",
        "lora_fa",
    ] = "adamw_torch"  # the rows of OPTIMIZERS
    optim_args: dict[str, float] = Field(default_factory=dict, validate_default=True)
    learning_rate: float = Field(2e-4, gt=0)
    loraplus_lr_ratio: float = Field(1.0, gt=0)
    lr_groups: dict[str, float] = Field(default_factory=dict)
    lr_scheduler_type: Literal["cosine", "linear", "constant", "warmup_stable_decay"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    warmup_steps: int | None = Field(None, ge=0)
    decay_ratio: float = Field(0.1, gt=0, le=1)
    min_lr_ratio: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    neftune_noise_alpha: float | None = Field(None, gt=0)
    gradient_checkpointing: bool = False
    activation_offloading: bool = False
    torch_compile: bool = False
    logging_steps: int = Field(1, ge=1)
    save_steps: int = Field(50, ge=0)
    save_total_limit: int = Field(2, ge=1)
    eval_steps: int = Field(0, ge=0)
    load_best_model_at_end: bool = False
    early_stopping_patience: int | None = Field(None, ge=1)
    early_stopping_threshold: float = Field(0.0, ge=0)
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped_steps: int = Field(3, ge=1)
    auto_find_batch_size: bool = False

    @field_validator("optim_args")
    @classmethod
    def optim_args_are_the_optimizer_s(cls, given: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        return filled_args(info.data["optim"], given) if "optim" in info.data else given

    @field_validator("lr_groups")
    @classmethod
    def patterns_and_rates(cls, groups: dict[str, float]) -> dict[str, float]:
        for pattern, rate in groups.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
            if not rate > 0:
                raise ValueError(f"the rate of {pattern!r} should be above 0")
        return groups

    @model_validator(mode="after")
    def one_length(self) -> TrainSection:
        if (self.max_steps is None) == (self.num_train_epochs is None):
            raise ValueError("give exactly one of `max_steps` and `num_train_epochs`")
        return self

    @model_validator(mode="after")
    def looks_before_choosing(self) -> TrainSection:
        for key in ("load_best_model_at_end", "early_stopping_patience"):
            if getattr(self, key) and not self.eval_steps:
                raise ValueError(f"`{key}` needs `eval_steps`: how often to look at the held-out loss")
        if self.load_best_model_at_end and not self.save_steps:
            raise ValueError("`load_best_model_at_end` needs checkpoints: `save_steps` above 0")
        return self

    @model_validator(mode="after")
    def offloading_is_not_compiled(self) -> TrainSection:
        if self.activation_offloading and self.torch_compile:
            raise ValueError("`activation_offloading` does not go together with `torch_compile`; choose one")
        return self

    @model_validator(mode="after")
    def every_setting_has_an_effect(self) -> TrainSection:
        defaults = {name: info.default for name, info in type(self).model_fields.items()}
        problems = check_settings(self, defaults) + _schedule_problems(self, defaults)
        if problems:
            raise ValueError("; ".join(problems))
        return self


def device_problems(section: TrainSection, device: str) -> list[str]:
    """What the section asks for and this device does not do, one line each."""
    problems, kind = [], OPTIMIZERS[section.optim]
    if device not in kind.devices:
        problems.append(f"train.optim: {section.optim} does not run on {device}; use {kind.instead}")
    if section.torch_compile and not DEVICES[device].compiles:
        problems.append(f"train.torch_compile: not on {device}, whose compilers were never tried; set it to false")
    if section.activation_offloading and device == "cpu":
        problems.append("train.activation_offloading: on cpu they are in the host's memory already; set it to false")
    return problems


def _schedule_problems(section: TrainSection, defaults: dict[str, Any]) -> list[str]:
    kind, problems = section.lr_scheduler_type, []
    if section.warmup_steps is not None and section.warmup_ratio != defaults["warmup_ratio"]:
        problems.append("give either `warmup_steps` or `warmup_ratio`, not both")
    if section.min_lr_ratio and kind == "constant":
        problems.append("`min_lr_ratio` has no effect with `lr_scheduler_type: constant`; leave it out")
    if section.decay_ratio != defaults["decay_ratio"] and kind != "warmup_stable_decay":
        problems.append(f"`decay_ratio` has no effect with `lr_scheduler_type: {kind}`; leave it out")
    return problems
