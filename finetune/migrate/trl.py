"""TRL: the arguments of `trl sft`, `trl dpo` and so on, as `--config FILE` reads them or a command line says them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.migrate.draft import Draft
from finetune.migrate.pairloss import set_loss
from finetune.migrate.trainer import Defaults, set_looks, set_training
from finetune.migrate.training import (
    QUIET,
    full_training,
    set_attention,
    set_lora,
    set_output,
    set_precision,
    usual_targets,
)
from finetune.migrate.trl_data import set_rows

NAME = "TRL"
STAGES = {"sft": "sft", "dpo": "dpo", "kto": "kto", "reward": "reward", "orpo": "orpo", "cpo": "simpo"}
REWARDED = ("grpo", "rloo", "gkd", "distillation")
RATES = {"sft": 2e-5, "reward": 1e-4}
RATE = 1e-6  # of the stages that compare answers
# Keys that only one of TRL's configurations has.
SIGNS = {
    "sft": ("packing", "packing_strategy", "eval_packing", "assistant_only_loss", "completion_only_loss", "dataset_text_field",
            "dataset_kwargs", "shuffle_dataset"),
    "dpo": ("loss_weights", "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "discopop_tau", "ld_alpha"),
    "kto": ("desirable_weight", "undesirable_weight"),
    "reward": ("center_rewards_coefficient",),
    "cpo": ("cpo_alpha", "simpo_gamma"),
    "grpo": ("reward_funcs", "num_generations", "scale_rewards"),
}  # fmt: skip


def translate(draft: Draft) -> None:
    """The recipe of TRL's arguments; `draft.given.stage` says which command they are for."""
    command = draft.given.stage or command_of(draft.given.values)
    draft.get("num_processes")  # counted where the draft is made
    if command is None:
        draft.problems.append(
            f"{draft.given.file}: SFTConfig, DPOConfig and the others share all keys that are in it: say which with "
            f"--stage {'|'.join(STAGES)}"
        )
        command = "sft"
    if command in REWARDED:
        draft.problems.append(
            f"{draft.given.file}: {command} draws its answers and is given code to judge them; write a recipe of stage grpo or "
            "distill (docs/stages.md)"
        )
        command = "sft"
    stage = STAGES[command]
    draft.write("stage", stage, f"trl {command}")
    _model(draft)
    _adapter(draft, stage)
    defaults = Defaults(learning_rate=RATES.get(command, RATE))
    set_training(draft, defaults)
    _losses(draft, command)
    set_output(draft, draft.get("output_dir", "trainer_output"), "output_dir")
    rows = set_rows(draft, stage)
    set_looks(draft, rows, defaults)


def command_of(values: Mapping[str, Any]) -> str | None:
    """Which of TRL's commands a file of its fields is for, where its keys tell."""
    for command, keys in SIGNS.items():
        if any(key in values for key in keys):
            return command
    loss = values.get("loss_type")
    names = [str(name) for name in (loss if isinstance(loss, list) else [loss])]
    for command, losses in (
        ("sft", ("nll", "dft", "chunked_nll")),
        ("kto", ("kto", "apo_zero_unpaired")),
        ("cpo", ("simpo",)),
    ):
        if set(names) & set(losses):
            return command
    return "dpo" if loss or "precompute_ref_log_probs" in values else None


def _model(draft: Draft) -> None:
    model = draft.get("model_name_or_path")
    if model is None:
        draft.problem("model_name_or_path", "is missing")
    else:
        draft.put("model.name_or_path", draft.place_of_model(model), "model_name_or_path")
    if (revision := draft.get("model_revision", "main")) != "main":
        draft.put("model.revision", revision, "model_revision")
    _precision(draft)
    set_attention(draft, "attn_implementation", draft.get("attn_implementation"))
    key = "activation_checkpointing" if draft.get("activation_checkpointing") is not None else "gradient_checkpointing"
    draft.put("train.gradient_checkpointing", draft.get(key, True), key)
    if draft.get("load_in_4bit"):
        draft.put("model.quantization", "nf4", "load_in_4bit")
        if (kind := draft.get("bnb_4bit_quant_type", "nf4")) != "nf4":
            draft.lost("bnb_4bit_quant_type", f"{kind} is not here", "model.quantization: nf4")
        if not draft.get("use_bnb_nested_quant", False):
            draft.changed("use_bnb_nested_quant", "the scales of NF4 are quantised too here, always")
    elif draft.get("load_in_8bit"):
        draft.put("model.quantization", "int8", "load_in_8bit")


def _precision(draft: Draft) -> None:
    """Products are bfloat16 unless both `bf16` and `fp16` say no; then they are of the weights' dtype."""
    key = "dtype" if draft.get("dtype") else "torch_dtype"
    weights = str(draft.get(key, "float32"))
    bf16, fp16 = draft.get("bf16"), draft.get("fp16", False)
    plain = "bfloat16" if weights == "bfloat16" else "auto" if weights == "auto" else "float32"
    set_precision(draft, bf16, fp16, ("bf16", "fp16"), plain=plain)
    if draft.values.get(key) and draft.recipe["model.dtype"] not in (weights, "auto"):
        draft.changed(key, f"the frozen weights are kept in the dtype of the products: {draft.recipe['model.dtype']}")
    if weights == "float16":
        draft.lost(key, "half precision is not here", "model.dtype: auto")


def _adapter(draft: Draft, stage: str) -> None:
    if not draft.get("use_peft", False):
        full_training(draft, "use_peft")
        return
    names = draft.get("lora_target_modules")
    parameters = draft.get("lora_target_parameters")
    if names == ["all-linear"]:
        targets: Any = "all-linear"
    else:
        targets = names or ([] if parameters else list(usual_targets(draft, "lora_target_modules")))
    values = {
        "r": draft.get("lora_r", 16),
        "lora_alpha": draft.get("lora_alpha", 32),
        "lora_dropout": draft.get("lora_dropout", 0.05),
        "target_modules": targets,
        "target_parameters": parameters,
        "modules_to_save": draft.get("lora_modules_to_save"),
    }
    keys = {
        "r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "target_modules": "lora_target_modules",
        "target_parameters": "lora_target_parameters", "modules_to_save": "lora_modules_to_save",
    }  # fmt: skip
    set_lora(draft, values, keys, QUIET)


def _losses(draft: Draft, command: str) -> None:
    stage, loss = STAGES[command], draft.get("loss_type")
    if stage in ("dpo", "kto", "orpo", "simpo"):
        draft.put(f"{stage}.beta", draft.get("beta", 0.1), "beta")
    if stage in ("dpo", "kto") and draft.get("precompute_ref_log_probs"):
        draft.put(f"{stage}.precompute_ref_log_probs", True, "precompute_ref_log_probs")
    if command == "sft" and loss not in (None, "nll", "chunked_nll"):
        draft.lost("loss_type", "this loss is not here", "stage sft's own, the negative log-likelihood")
    if command == "kto":
        if loss not in (None, "kto"):
            draft.lost("loss_type", "this loss is not here", "stage kto's own")
        draft.put("kto.desirable_weight", draft.get("desirable_weight", 1.0), "desirable_weight")
        draft.put("kto.undesirable_weight", draft.get("undesirable_weight", 1.0), "undesirable_weight")
    if command == "reward" and (centre := draft.get("center_rewards_coefficient")):
        draft.put("reward.center_rewards_coefficient", centre, "center_rewards_coefficient")
    if command == "dpo":
        set_loss(draft, loss, draft.get("loss_weights"), "loss_type")
    smoothing = draft.get("label_smoothing", 0.0)
    if smoothing and draft.recipe.get("dpo.loss_type") in ("sigmoid", "sigmoid_norm"):
        draft.put("dpo.label_smoothing", smoothing, "label_smoothing")
    elif smoothing:
        draft.lost("label_smoothing", "is of the losses sigmoid and sigmoid_norm here")
    if command == "cpo":
        _simpo(draft, loss)


def _simpo(draft: Draft, loss: Any) -> None:
    """CPO's configuration; of its losses SimPO is here."""
    if loss != "simpo":
        draft.lost("loss_type", "CPO's own losses are not here", "stage simpo")
    draft.put("simpo.gamma", draft.get("simpo_gamma", 0.5), "simpo_gamma")
    if weight := draft.get("cpo_alpha", 1.0):
        draft.lost("cpo_alpha", f"{weight:g}: no likelihood term beside SimPO's loss", "stage orpo, which has one")
