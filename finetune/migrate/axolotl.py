"""Axolotl: one YAML of its own keys, with a list of `datasets`: the model, the adapter, and what each stage is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune.errors import did_you_mean
from finetune.migrate.axolotl_data import set_rows, stage_of_sets
from finetune.migrate.axolotl_keys import TOKENS
from finetune.migrate.axolotl_training import NAME, set_joined, set_looks, set_losses, set_training
from finetune.migrate.draft import Draft
from finetune.migrate.training import (
    QUIET,
    full_training,
    set_attention,
    set_lora,
    set_output,
    set_precision,
    usual_targets,
)

RL = {"dpo": "dpo", "ipo": "dpo", "orpo": "orpo", "kto": "kto", "simpo": "simpo"}
REWARDED = ("grpo", "gdpo", "ebft")


def translate(draft: Draft) -> None:
    """The recipe of an Axolotl YAML."""
    stage = _stage(draft)
    draft.write("stage", stage, f"rl: {draft.get('rl')}" if draft.get("rl") else "")
    _model(draft)
    _adapter(draft, stage)
    set_training(draft)
    set_joined(draft)
    set_losses(draft, stage)
    set_output(draft, draft.get("output_dir", "./model-out"), "output_dir")
    rows = set_rows(draft, stage)
    set_looks(draft, rows)


def _stage(draft: Draft) -> str:
    name = draft.get("rl")
    if name in REWARDED:
        draft.problem(
            "rl",
            f"{name}: its rewards are Python code; write a recipe of stage grpo, whose rewards are scores of the metric",
        )
    elif name and name not in RL:
        draft.problem("rl", f"{name!r} is none{did_you_mean(name, (*RL, *REWARDED))}")
    if draft.get("process_reward_model"):
        draft.problem(
            "process_reward_model",
            "rewards of single steps have no equivalent; nearest: stage reward with reward.aspects",
        )
    if name:
        return RL.get(name, "sft")
    return "reward" if draft.get("reward_model") else stage_of_sets(draft)


def _model(draft: Draft) -> None:
    model = draft.get("base_model")
    if model is None:
        draft.problem("base_model", "is missing")
    else:
        draft.put("model.name_or_path", draft.place_of_model(model), "base_model")
    if adapter := draft.get("lora_model_dir"):
        draft.put("model.adapter_name_or_path", draft.place_of_model(adapter), "lora_model_dir")
    _tokens(draft)
    _precision(draft)
    _attention(draft)
    mode, offload = draft.get("gradient_checkpointing", False), draft.get("activation_offloading", False)
    draft.put("train.gradient_checkpointing", bool(mode or offload), "gradient_checkpointing")
    if offload or (isinstance(mode, str) and mode.startswith("offload")):
        draft.put("train.activation_offloading", True, "activation_offloading" if offload else "gradient_checkpointing")
    if draft.get("torch_compile") not in (None, False, "auto"):
        draft.put("train.torch_compile", True, "torch_compile")


def _tokens(draft: Draft) -> None:
    special, words = draft.get("special_tokens") or {}, draft.get("tokens") or []
    if isinstance(words, dict):  # an older form of special_tokens
        special, words = words | (special if isinstance(special, dict) else {}), []
    words = [str(word) for word in (words if isinstance(words, list) else [words])]
    for name, value in special.items() if isinstance(special, dict) else ():
        if name == "pad_token":
            draft.idle("special_tokens", f"{name} {value}: padding is masked")
        elif name == "additional_special_tokens" and isinstance(value, list):
            words += value
            draft.changed("special_tokens", f"{name} become tokens like others: decoding does not leave them out")
        elif value is not None:
            draft.lost("special_tokens", f"{name} {value}: {TOKENS.lost}", TOKENS.instead)
    if words:
        draft.write("model.add_tokens", words, "tokens")
    name = draft.get("chat_template")
    if name not in (None, "tokenizer_default"):
        draft.changed(
            "chat_template", "the tokenizer's own chat template is taken, whatever its name; look with finetune show"
        )


def _precision(draft: Draft) -> None:
    given = draft.values.get("bf16")
    bf16: Any = draft.get("bf16", "auto") if draft.get("bfloat16") is None else draft.get("bfloat16")
    fp16 = bool(draft.get("fp16") or draft.get("float16"))
    if draft.get("float32"):
        draft.put("model.dtype", "float32", "float32")
        return
    if given is None and fp16:
        bf16 = False
    on = None if bf16 == "auto" else bool(bf16)
    set_precision(draft, on, fp16, ("bf16", "fp16"), plain="float32")


def _attention(draft: Draft) -> None:
    words = {"flash_attention": "flash_attention_2", "sdp_attention": "sdpa", "eager_attention": "eager",
             "xformers_attention": "xformers", "flex_attention": "flex_attention", "sage_attention": "sage"}  # fmt: skip
    for key, name in words.items():
        if draft.get(key):
            set_attention(draft, key, name)
    set_attention(draft, "attn_implementation", draft.get("attn_implementation"))


def _adapter(draft: Draft, stage: str) -> None:
    kind = draft.get("adapter")
    four, eight = draft.get("load_in_4bit", False), draft.get("load_in_8bit", False)
    if kind is None:
        full_training(draft, "adapter")
        return
    if kind not in ("lora", "qlora"):
        draft.lost("adapter", "is not read here", "LoRA, or a method of docs/adapters.md")
    if four or kind == "qlora":
        draft.put("model.quantization", "nf4", "load_in_4bit" if four else "adapter")
    elif eight:
        draft.put("model.quantization", "int8", "load_in_8bit")
    for key in ("lora_r", "lora_alpha"):
        if draft.get(key) is None:
            draft.problem(key, f"is missing; {NAME} has no default")
    plain = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_parameters", "lora_modules_to_save", "lora_rank_pattern",
             "lora_alpha_pattern", "peft_layers_to_transform", "peft_layers_pattern", "peft_init_lora_weights",
             "peft_trainable_token_indices")  # fmt: skip
    peft = ("r", "lora_alpha", "lora_dropout", "target_parameters", "modules_to_save", "rank_pattern", "alpha_pattern",
            "layers_to_transform", "layers_pattern", "init_lora_weights", "trainable_token_indices")  # fmt: skip
    keys = dict(zip(peft, plain, strict=True))
    values: dict[str, Any] = {name: draft.get(key) for name, key in keys.items()}
    values["lora_dropout"] = draft.get("lora_dropout", 0.0)
    keys["target_modules"] = "lora_target_linear" if draft.get("lora_target_linear") else "lora_target_modules"
    values["target_modules"] = _targets(draft)
    set_lora(draft, values, keys, QUIET)


def _targets(draft: Draft) -> str | Sequence[str]:
    named, linear = draft.get("lora_target_modules"), draft.get("lora_target_linear", False)
    if linear or named == "all-linear":
        if isinstance(named, list) and (others := [name for name in named if name in ("lm_head", "embed_tokens")]):
            draft.lost(
                "lora_target_modules",
                f"{', '.join(others)} beside all linear layers",
                "name all layers in lora.target_modules",
            )
        return "all-linear"
    if named:
        return named if isinstance(named, str | list) else str(named)
    if draft.get("lora_target_parameters"):
        return []
    return list(usual_targets(draft, "lora_target_modules"))
