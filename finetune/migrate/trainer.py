"""Keys of transformers' TrainingArguments, which LLaMA-Factory's and TRL's configurations both hold, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finetune.migrate.draft import Draft
from finetune.migrate.keys import Key, each, idle, lost, read, same
from finetune.migrate.optimizers import set_optimizer, set_schedule, set_warmup
from finetune.migrate.training import every, set_batch, set_clipping, set_length, set_trackers

NO_HUB = "uploading is a step of its own, after the export"
LAUNCH = "accelerate launch --config_file scripts/accelerate/"
BY_HAND = "is how it is computed, not what; the run sees to it itself"
LOGGING = "changes what is printed and kept only"
CHECKPOINTS = "is said on the command line here: --resume auto, --overwrite"

TRAINER: Mapping[str, Key] = {
    "output_dir": read("text"),
    "per_device_train_batch_size": read("whole"),
    "gradient_accumulation_steps": read("whole"),
    "num_train_epochs": read("number"),
    "max_steps": read("whole"),
    "learning_rate": read("number"),
    "lr_scheduler_type": read("text"),
    "lr_scheduler_kwargs": read("any"),
    "warmup_ratio": read("number"),
    "warmup_steps": read("number"),
    "optim": read("text"),
    "optim_args": lost("settings of an optimizer have other names here", "train.optim_args"),
    "optim_target_modules": lost("is of GaLore and APOLLO, which are not here", "LoRA"),
    "weight_decay": read("number"),
    "adam_beta1": read("number"),
    "adam_beta2": read("number"),
    "adam_epsilon": read("number"),
    "max_grad_norm": read("number"),
    "label_smoothing_factor": read("number"),
    "bf16": read("flag"),
    "fp16": read("flag"),
    "seed": read("whole"),
    "data_seed": lost("one seed counts for everything", "seed"),
    "full_determinism": same("full_determinism", "flag"),
    "neftune_noise_alpha": read("number"),
    "torch_compile": same("train.torch_compile", "flag"),
    "auto_find_batch_size": same("train.auto_find_batch_size", "flag"),
    "logging_steps": read("number"),
    "save_strategy": read("text"),
    "save_steps": read("number"),
    "save_total_limit": same("train.save_total_limit", "whole"),
    "eval_strategy": read("text"),
    "evaluation_strategy": read("text"),
    "eval_steps": read("number"),
    "load_best_model_at_end": read("flag"),
    "metric_for_best_model": lost(
        "the best is that of the held-out loss", "train.load_best_model_at_end", off=("loss", "eval_loss")),
    "greater_is_better": lost("the best is that of the held-out loss", "train.load_best_model_at_end"),
    "report_to": read("names"),
    "deepspeed": lost("a launch, not a recipe, says how processes share a model", f"{LAUNCH}zero2.yaml, or zero3.yaml"),
    "fsdp": lost("a launch, not a recipe, says how processes share a model", f"{LAUNCH}fsdp2.yaml"),
    "fsdp_config": lost("a launch, not a recipe, says how processes share a model", f"{LAUNCH}fsdp2.yaml"),
    "parallelism_config": lost("a launch, not a recipe, says how processes share a model", f"{LAUNCH}fsdp2.yaml"),
    "average_tokens_across_devices": Key(
        "flag", lost="true is how it is here: the mean is over the tokens of the whole batch", instead="no key is needed",
        off=(True,),
    ),
    "use_cpu": read("flag"),
    "train_sampling_strategy": lost("rows come in a shuffled order", "no key is needed", off=("random",)),
    "group_by_length": lost("rows come in a shuffled order", "data.packing or data.padding_free spares padding"),
    "dataloader_drop_last": lost("the last rows of an epoch go into the next one's first batch", "no key is needed"),
    "use_liger_kernel": idle("fused kernels are the device's own here (model.fused_ops), compared with the plain ones"),
    "liger_kernel_config": idle("fused kernels are the device's own here (model.fused_ops)"),
    "per_device_eval_batch_size": idle("looks at the held-out loss take the size of a micro-batch"),
    "push_to_hub": lost(NO_HUB, "finetune export RUN --push-to-hub ORG/NAME"),
    "hub_model_id": lost(NO_HUB, "finetune export RUN --push-to-hub ORG/NAME"),
    "include_for_metrics": idle(LOGGING),
    "do_eval": idle("train.eval_steps says whether the held-out loss is looked at"),
    "do_predict": idle("held-out rows are answered and scored after every training"),
    **each("gradient_checkpointing_kwargs activation_checkpointing_kwargs torch_compile_backend torch_compile_mode tf32 "
           "torch_empty_cache_steps use_cache dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
           "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order remove_unused_columns "
           "label_names length_column_name accelerator_config ddp_find_unused_parameters ddp_bucket_cap_mb "
           "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout local_rank eval_accumulation_steps "
           "eval_use_gather_object eval_do_concat_batches bf16_full_eval fp16_full_eval", idle(BY_HAND)),
    **each("logging_strategy logging_first_step log_on_each_node logging_nan_inf_filter logging_dir log_level "
           "log_level_replica disable_tqdm run_name project trackio_space_id trackio_bucket_id trackio_static_space_id "
           "include_num_input_tokens_seen include_tokens_per_second prediction_loss_only batch_eval_metrics eval_delay "
           "eval_on_start debug skip_memory_metrics", idle(LOGGING)),
    **each("resume_from_checkpoint overwrite_output_dir ignore_data_skip restore_callback_states_from_checkpoint "
           "enable_jit_checkpoint", idle(CHECKPOINTS)),
    **each("save_only_model save_on_each_node save_safetensors", idle("a checkpoint always holds all that a run needs to go on")),
    **each("hub_token hub_private_repo hub_strategy hub_always_push hub_revision", idle(NO_HUB)),
}  # fmt: skip


class Defaults(NamedTuple):
    """What a peer takes where its file says nothing."""

    learning_rate: float = 5e-5
    micro_batch: int = 8
    epochs: float = 3.0
    schedule: str = "linear"
    save_steps: int = 500


def set_training(draft: Draft, defaults: Defaults) -> None:
    """Batch, length, rate, schedule, optimizer, decay, clipping, seed."""
    set_batch(
        draft, draft.get("per_device_train_batch_size", defaults.micro_batch), draft.get("gradient_accumulation_steps", 1),
        ("per_device_train_batch_size", "gradient_accumulation_steps"),
    )  # fmt: skip
    epochs = draft.get("num_train_epochs", defaults.epochs)
    set_length(draft, draft.get("max_steps"), epochs, ("max_steps", "num_train_epochs"))
    draft.put("train.learning_rate", draft.get("learning_rate", defaults.learning_rate), "learning_rate")
    set_optimizer(draft, "optim", "adamw_torch_fused", ("adam_beta1", "adam_beta2", "adam_epsilon"))
    options = draft.get("lr_scheduler_kwargs", {})
    if not isinstance(options, dict):
        draft.problem("lr_scheduler_kwargs", f"a mapping is needed, got {options!r}")
        options = {}
    set_schedule(draft, "lr_scheduler_type", defaults.schedule, options)
    set_warmup(
        draft, draft.get("warmup_steps"), draft.get("warmup_ratio"), ("warmup_steps", "warmup_ratio"),
        draft.get("lr_scheduler_type", defaults.schedule),
    )  # fmt: skip
    draft.put("train.weight_decay", draft.get("weight_decay", 0.0), "weight_decay")
    set_clipping(draft, draft.get("max_grad_norm", 1.0), "max_grad_norm")
    draft.put("seed", draft.get("seed", 42), "seed")
    if noise := draft.get("neftune_noise_alpha"):
        draft.put("train.neftune_noise_alpha", noise, "neftune_noise_alpha")
    _smoothing(draft, draft.get("label_smoothing_factor", 0.0))
    if draft.get("use_cpu"):
        draft.write("device", "cpu", "use_cpu")
    set_trackers(draft, draft.get("report_to", []), "report_to")


def _smoothing(draft: Draft, share: float) -> None:
    if share and draft.recipe.get("stage") == "sft":
        draft.put("sft.label_smoothing_factor", share, "label_smoothing_factor")
    elif share:
        draft.lost("label_smoothing_factor", "is of stage sft here")


def set_looks(
    draft: Draft, rows: int | None, defaults: Defaults, patience: int | None = None, patience_key: str = ""
) -> None:
    """Checkpoints and looks at the held-out loss, in steps; the best model and early stopping, which need them.

    Args:
        rows: to train on, None where they can't be counted.
    """
    epochs = float(draft.recipe.get("train.num_train_epochs", 1))
    logging = draft.get("logging_steps")
    if logging is not None and logging >= 1:
        draft.put("train.logging_steps", int(logging), "logging_steps")
    saving = str(draft.get("save_strategy", "steps"))
    steps = draft.get("save_steps", defaults.save_steps)
    if saving in ("steps", "best"):
        every(draft, "train.save_steps", "save_steps", steps, rows, epochs)
    elif saving == "epoch":
        every(draft, "train.save_steps", "save_strategy", None, rows)
    else:
        draft.put("train.save_steps", 0, "save_strategy")
    key = "eval_strategy" if draft.get("eval_strategy") else "evaluation_strategy"
    looking = str(draft.get("eval_strategy") or draft.get("evaluation_strategy", "no"))
    best = draft.get("load_best_model_at_end", False)
    looks = None
    if looking == "epoch":
        looks = every(draft, "train.eval_steps", key, None, rows)
    elif looking == "steps":
        looks = every(draft, "train.eval_steps", "eval_steps", draft.get("eval_steps", logging or 500), rows, epochs)
    _best(draft, bool(best), looks, patience, patience_key)


def _best(draft: Draft, best: bool, looks: int | None, patience: int | None, patience_key: str) -> None:
    if best and looks:
        draft.put("train.load_best_model_at_end", True, "load_best_model_at_end")
    elif best:
        draft.lost("load_best_model_at_end", "needs looks at the held-out loss", "train.eval_steps")
    if patience and looks:
        draft.put("train.early_stopping_patience", patience, patience_key)
    elif patience:
        draft.lost(patience_key, "needs looks at the held-out loss", "train.eval_steps")


def listed(value: Any) -> Sequence[Any]:
    """A list as it is, one thing as a list of it."""
    return value if isinstance(value, list) else [value]
