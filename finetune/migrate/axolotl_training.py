"""Axolotl's batch, optimizer, schedule, losses, looks and checkpoints."""

from __future__ import annotations

import re

from finetune.migrate.draft import Draft
from finetune.migrate.optimizers import set_optimizer, set_schedule, set_warmup
from finetune.migrate.pairloss import set_loss
from finetune.migrate.training import every, set_batch, set_clipping, set_length, set_trackers

NAME = "Axolotl"


def set_training(draft: Draft) -> None:
    """Batch, length, rate, schedule, optimizer, decay, clipping, seed, trackers."""
    micro = draft.get("micro_batch_size", 1)
    accumulated = draft.get("gradient_accumulation_steps")
    if accumulated is None:
        accumulated = max(1, draft.get("batch_size", micro) // max(micro, 1))
    set_batch(draft, micro, accumulated, ("micro_batch_size", "gradient_accumulation_steps"))
    set_length(draft, draft.get("max_steps"), draft.get("num_epochs", 1.0), ("max_steps", "num_epochs"))
    rate = draft.get("learning_rate")
    if rate is None:
        draft.problem("learning_rate", f"is missing; {NAME} has no default")
    else:
        draft.put("train.learning_rate", rate, "learning_rate")
    set_optimizer(draft, "optimizer", "adamw_torch_fused", ("adam_beta1", "adam_beta2", "adam_epsilon"))
    options = draft.get("lr_scheduler_kwargs") or {}
    least = draft.get("cosine_min_lr_ratio")
    set_schedule(
        draft,
        "lr_scheduler",
        "cosine",
        (options if isinstance(options, dict) else {}) | ({"min_lr_ratio": least} if least else {}),
    )
    _warmup(draft)
    draft.put("train.weight_decay", draft.get("weight_decay", 0.0), "weight_decay")
    set_clipping(draft, draft.get("max_grad_norm", 1.0), "max_grad_norm")
    draft.put("seed", draft.get("seed", 42), "seed")
    key = "neftune_noise_alpha" if draft.get("neftune_noise_alpha") else "noisy_embedding_alpha"
    if noise := draft.get(key):
        draft.put("train.neftune_noise_alpha", noise, key)
    _groups(draft)
    _trackers(draft)


def _trackers(draft: Draft) -> None:
    """A project of wandb switches it on there."""
    names = ("wandb", "tensorboard", "trackio", "swanlab", "mlflow", "comet")
    used = [name for name in names if draft.get(f"use_{name}")]
    if draft.get("wandb_project") and "wandb" not in used:
        used.append("wandb")
        draft.used.add("use_wandb")
    for name in used:
        set_trackers(
            draft,
            [*draft.recipe.get("report_to", []), name],
            f"use_{name}" if f"use_{name}" in draft.values else "wandb_project",
        )


def _warmup(draft: Draft) -> None:
    steps, share = draft.get("warmup_steps"), draft.get("warmup_ratio")
    if steps is None and share is None:
        draft.write("train.warmup_ratio", 0.03, f"default of {NAME}")
        draft.changed("warmup_ratio", "unset, it is 3 % of the steps there, but at most 100; here 3 %")
        return
    set_warmup(draft, steps, share, ("warmup_steps", "warmup_ratio"), draft.get("lr_scheduler", "cosine"))


def set_joined(draft: Draft) -> None:
    """A micro-batch without padding; `auto` there is where it is quicker."""
    if draft.get("batch_flattening") is True:
        draft.put("data.padding_free", True, "batch_flattening")
    elif draft.get("batch_flattening"):
        draft.idle("batch_flattening", "how rows are put together or padded, not what is trained")


def _groups(draft: Draft) -> None:
    groups = draft.get("lr_groups") or []
    found = {}
    for group in groups if isinstance(groups, list) else []:
        rate = group.get("lr") if isinstance(group, dict) else None
        if not isinstance(rate, int | float) or not isinstance(group.get("modules"), list):
            draft.problem("lr_groups", f"a group with `modules` and `lr` is needed, got {group!r}")
        else:
            found["|".join(re.escape(str(name)) for name in group["modules"])] = float(rate)
    if found:
        draft.write("train.lr_groups", found, "lr_groups")


def set_losses(draft: Draft, stage: str) -> None:
    """The section of a stage that compares answers."""
    inner = draft.get("trl") or {}
    if isinstance(inner, dict):
        for name, value in inner.items():
            if name != "beta" and value not in (None, False):
                draft.lost(f"trl.{name}", "is of a loss that draws answers", "stage grpo")
    beta = inner.get("beta") if isinstance(inner, dict) else None
    key = (
        "trl"
        if beta is not None
        else next((k for k in ("rl_beta", "dpo_beta", "orpo_alpha") if draft.get(k)), "rl_beta")
    )
    beta = beta if beta is not None else draft.get(key, 0.1)
    if stage in ("dpo", "orpo", "simpo", "kto"):
        draft.put(f"{stage}.beta", beta, key)
    if stage == "dpo":
        _dpo(draft)
    if stage in ("dpo", "kto") and draft.get("precompute_ref_log_probs"):
        draft.put(f"{stage}.precompute_ref_log_probs", True, "precompute_ref_log_probs")
    if stage == "simpo":
        draft.put("simpo.gamma", draft.get("simpo_gamma", 0.5), "simpo_gamma")
        if draft.get("cpo_alpha", 1.0):
            draft.lost(
                "cpo_alpha",
                f"{draft.get('cpo_alpha', 1.0):g}: no likelihood term beside SimPO's loss",
                "stage orpo, which has one",
            )
    if stage == "kto":
        draft.put("kto.desirable_weight", draft.get("kto_desirable_weight") or 1.0, "kto_desirable_weight")
        draft.put("kto.undesirable_weight", draft.get("kto_undesirable_weight") or 1.0, "kto_undesirable_weight")
    if stage == "reward" and (centre := draft.get("center_rewards_coefficient")):
        draft.put("reward.center_rewards_coefficient", centre, "center_rewards_coefficient")


def _dpo(draft: Draft) -> None:
    ipo = draft.get("rl") == "ipo"
    set_loss(
        draft,
        ["ipo"] if ipo else draft.get("dpo_loss_type"),
        draft.get("dpo_loss_weights"),
        "rl" if ipo else "dpo_loss_type",
    )
    if (smoothing := draft.get("dpo_label_smoothing")) and not ipo:
        draft.put("dpo.label_smoothing", smoothing, "dpo_label_smoothing")
    if alpha := draft.get("rpo_alpha"):
        draft.put("dpo.rpo_alpha", alpha, "rpo_alpha")


def set_looks(draft: Draft, rows: int | None) -> None:
    """Checkpoints, looks at the held-out loss, and what needs them."""
    epochs = float(draft.recipe.get("train.num_train_epochs", 1))
    if logging := draft.get("logging_steps"):
        draft.put("train.logging_steps", logging, "logging_steps")
    _cadence(
        draft,
        "train.save_steps",
        "save_steps",
        "saves_per_epoch",
        str(draft.get("save_strategy", "epoch")),
        "save_strategy",
        rows,
        epochs,
    )
    held_out = draft.get("val_set_size", 0.0) or draft.get("test_datasets")
    key = "eval_strategy" if draft.get("eval_strategy") else "evaluation_strategy"
    looking = str(draft.get("eval_strategy") or draft.get("evaluation_strategy", "no"))
    looks = None
    if held_out:
        looks = _cadence(draft, "train.eval_steps", "eval_steps", "evals_per_epoch", looking, key, rows, epochs)
    if draft.get("load_best_model_at_end"):
        if looks:
            draft.put("train.load_best_model_at_end", True, "load_best_model_at_end")
        else:
            draft.lost("load_best_model_at_end", "needs looks at the held-out loss", "train.eval_steps")
    if patience := draft.get("early_stopping_patience"):
        if looks:
            draft.put("train.early_stopping_patience", patience, "early_stopping_patience")
        else:
            draft.lost("early_stopping_patience", "needs looks at the held-out loss", "train.eval_steps")


def _cadence(
    draft: Draft,
    target: str,
    steps_key: str,
    times_key: str,
    strategy: str,
    strategy_key: str,
    rows: int | None,
    epochs: float,
) -> int | None:
    """Steps between two checkpoints or looks: given, or so many an epoch, or as the strategy says."""
    steps, times = draft.get(steps_key), draft.get(times_key)
    if steps:
        return every(draft, target, steps_key, steps, rows, epochs)
    if times:
        return every(draft, target, times_key, 1.0 / (times * epochs) if times * epochs > 1 else None, rows, epochs)
    if times == 0 or strategy == "no":
        if target == "train.save_steps":
            draft.write(target, 0, f"{times_key if times == 0 else strategy_key}: none")
        return None
    if strategy == "epoch":
        given = draft.values.get(strategy_key) is not None
        return every(draft, target, strategy_key if given else times_key, None, rows)
    return None
