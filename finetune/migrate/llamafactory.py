"""LLaMA-Factory: one flat YAML of model, data, training and fine-tuning arguments."""

from __future__ import annotations

from finetune.errors import did_you_mean
from finetune.migrate.draft import Draft
from finetune.migrate.llamafactory_data import set_rows
from finetune.migrate.optimizers import OPTIMIZER_NAMES
from finetune.migrate.trainer import Defaults, set_looks, set_training
from finetune.migrate.training import full_training, set_attention, set_lora, set_output, set_precision, set_trackers

NAME = "LLaMA-Factory"
DEFAULTS = Defaults()
STAGES = {"pt": "cpt", "sft": "sft", "rm": "reward", "dpo": "dpo", "kto": "kto"}
LOSSES = ("sigmoid", "hinge", "ipo")


def translate(draft: Draft) -> None:
    """The recipe of a LLaMA-Factory YAML."""
    stage = _stage(draft)
    given = str(draft.get("stage", "sft"))
    draft.write("stage", stage, "" if given == stage else f"stage: {given}")
    _model(draft)
    _adapter(draft)
    set_training(draft, DEFAULTS)
    if draft.get("use_muon"):
        draft.write("train.optim", "muon", "use_muon")
        draft.changed("use_muon", OPTIMIZER_NAMES["muon"].why)
    if draft.get("use_swanlab"):
        set_trackers(draft, [*draft.recipe.get("report_to", []), "swanlab"], "use_swanlab")
    _preferences(draft, stage)
    set_output(draft, draft.get("output_dir", f"saves/{draft.recipe['name']}"), "output_dir")
    if not draft.get("do_train", False):
        draft.changed("do_train", "nothing is trained there without `do_train: true`; the recipe trains")
    rows = set_rows(draft, stage)
    set_looks(draft, rows, DEFAULTS, draft.get("early_stopping_steps"), "early_stopping_steps")


def _stage(draft: Draft) -> str:
    name, loss = draft.get("stage", "sft"), draft.get("pref_loss", "sigmoid")
    if name == "ppo":
        draft.problem(
            "stage", "ppo has no equivalent; nearest: stage grpo, whose rewards are scores of the data's metric"
        )
    elif name not in STAGES:
        draft.problem("stage", f"{name!r} is no stage of {NAME}{did_you_mean(name, [*STAGES, 'ppo'])}")
    if name == "dpo" and loss in ("orpo", "simpo"):
        return loss
    return STAGES.get(name, "sft")


def _model(draft: Draft) -> None:
    model = draft.get("model_name_or_path")
    if model is None:
        draft.problem("model_name_or_path", "is missing")
    else:
        draft.put("model.name_or_path", draft.place_of_model(model), "model_name_or_path")
    if (revision := draft.get("model_revision", "main")) != "main":
        draft.put("model.revision", revision, "model_revision")
    adapters = draft.get("adapter_name_or_path", [])
    if len(adapters) == 1 and not draft.get("create_new_adapter"):
        draft.put("model.adapter_name_or_path", draft.place_of_model(adapters[0]), "adapter_name_or_path")
    elif adapters:
        draft.lost(
            "adapter_name_or_path", "only one adapter is gone on with", "finetune merge, or a base with them merged"
        )
    if words := draft.get("add_special_tokens"):
        draft.put("model.add_tokens", [*draft.recipe.get("model.add_tokens", []), *words], "add_special_tokens")
        draft.changed("add_special_tokens", "are tokens like others here: decoding does not leave them out")
    plain = draft.get("pure_bf16", False)
    key = "pure_bf16" if plain else "bf16"
    set_precision(draft, True if plain else draft.get("bf16"), draft.get("fp16", False), (key, "fp16"))
    set_attention(draft, "flash_attn", draft.get("flash_attn"))
    _quantization(draft)
    off = draft.get("disable_gradient_checkpointing", False)
    draft.put("train.gradient_checkpointing", not off, "disable_gradient_checkpointing")


def _quantization(draft: Draft) -> None:
    bits = draft.get("quantization_bit")
    if bits is None:
        return
    method = draft.get("quantization_method", "bnb")
    if bits not in (4, 8):
        draft.lost("quantization_bit", f"{bits} bits are not here", "model.quantization: nf4 (4 bits)")
    elif method not in ("bnb", "bitsandbytes"):
        draft.lost("quantization_method", f"{method} is not here; bitsandbytes takes its place")
    if bits != 8 and draft.get("quantization_type", "nf4") != "nf4":
        draft.lost("quantization_type", "4 bits are NF4 here", "model.quantization: nf4")
    if bits != 8 and not draft.get("double_quantization", True):
        draft.lost("double_quantization", "the scales of NF4 are quantised too, always", "model.quantization: nf4")
    draft.put("model.quantization", "int8" if bits == 8 else "nf4", "quantization_bit")


def _adapter(draft: Draft) -> None:
    kind = draft.get("finetuning_type", "lora")
    if kind in ("full", "freeze"):
        full_training(draft, "finetuning_type")
    elif kind == "oft":
        _oft(draft)
    elif kind == "lora":
        _lora(draft)
    else:
        draft.problem("finetuning_type", f"{kind!r} is none{did_you_mean(kind, ('lora', 'oft', 'freeze', 'full'))}")


def _lora(draft: Draft) -> None:
    rank = draft.get("lora_rank", 8)
    start = None
    if draft.get("pissa_init"):
        rounds = draft.get("pissa_iter", 16)
        start = "pissa" if rounds < 0 else f"pissa_niter_{rounds}"
    values = {
        "r": rank,
        "lora_alpha": draft.get("lora_alpha", 2 * rank),
        "lora_dropout": draft.get("lora_dropout", 0.0),
        "target_modules": _targets(draft.get("lora_target", ["all"])),
        "init_lora_weights": start,
        "modules_to_save": draft.get("additional_target"),
    }
    keys = {
        "r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "target_modules": "lora_target",
        "init_lora_weights": "pissa_init", "modules_to_save": "additional_target",
    }  # fmt: skip
    set_lora(draft, values, keys, quiet=("dpo", "orpo", "simpo", "kto"))
    if draft.values.get("lora_alpha") is None:
        draft.said["lora.lora_alpha"] = f"default of {NAME}: twice the rank"


def _oft(draft: Draft) -> None:
    draft.write("peft_type", "oft", "finetuning_type: oft")
    rank, block = draft.get("oft_rank", 0), draft.get("oft_block_size", 32)
    draft.put("oft.r", rank, "oft_rank")
    draft.put("oft.oft_block_size", 0 if rank else block, "oft_block_size")
    draft.put("oft.target_modules", _targets(draft.get("oft_target", ["all"])), "oft_target")


def _targets(names: list[str]) -> str | list[str]:
    return "all-linear" if names == ["all"] else names


def _preferences(draft: Draft, stage: str) -> None:
    beta, more = draft.get("pref_beta", 0.1), draft.get("pref_ftx", 0.0)
    loss = draft.get("pref_loss", "sigmoid")
    if stage in ("dpo", "orpo", "simpo", "kto"):
        draft.put(f"{stage}.beta", beta, "pref_beta")
    if stage == "dpo":
        if loss not in LOSSES:
            draft.lost("pref_loss", "is no loss here", "dpo.loss_type: sigmoid")
        draft.put("dpo.loss_type", loss if loss in LOSSES else "sigmoid", "pref_loss")
        if smoothing := draft.get("dpo_label_smoothing", 0.0):
            draft.put("dpo.label_smoothing", smoothing, "dpo_label_smoothing")
        if more:
            draft.put("dpo.rpo_alpha", more, "pref_ftx")
    elif more and stage in ("orpo", "simpo", "kto"):
        draft.lost("pref_ftx", f"no further likelihood term in stage {stage}", "stage dpo with dpo.rpo_alpha")
    if stage == "simpo":
        draft.put("simpo.gamma", draft.get("simpo_gamma", 0.5), "simpo_gamma")
    if stage == "kto":
        draft.put("kto.desirable_weight", draft.get("kto_chosen_weight", 1.0), "kto_chosen_weight")
        draft.put("kto.undesirable_weight", draft.get("kto_rejected_weight", 1.0), "kto_rejected_weight")
