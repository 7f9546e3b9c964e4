"""A PEFT adapter's folder: its settings, its tensors' names, and what in them only a merge can serve."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import GateError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as --max-lora-rank (vllm/config/lora.py), without 1
PAIR = re.compile(r"^(base_model\.model\.(.+))\.(?:lora_(A|B)\.weight|lora_embedding_(A|B))$")
# What wrappers and peft's own in-memory names add to a parameter's name.
WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")

# Settings that make an adapter more than pairs of A and B: config key -> why no engine serves it as it is.
LEFTOVERS = {
    "use_dora": "DoRA rescales the whole weight",
    "lora_bias": "lora_bias adds a bias beside lora_B",
    "modules_to_save": "whole modules were trained, and a base is shared by its adapters",
    "trainable_token_indices": "rows of the embedding were trained",
    "target_parameters": "LoRA on fused parameters (experts) has no form that engines read",
    "layer_replication": "layers were replicated",
    "alora_invocation_tokens": "the adapter acts only after its invocation tokens",
    "use_qalora": "QALoRA groups its inputs",
    "use_bdlora": "BD-LoRA's matrices are block-diagonal",
    "arrow_config": "Arrow routes between adapters",
    "kasa_config": "KaSA truncates the base's weights and puts a diagonal between A and B",
    "monteclora_config": "MonteCLoRA samples its weights",
    "ensure_weight_tying": "one adapter acts on both ends of a tied matrix",
}


# Methods whose adapters are taken, and why one that is not LoRA, and can't be written as it, stays as it is.
UNSERVED = {
    "IA3": "(IA)^3 multiplies what layers give, and engines read LoRA",
    "OFT": "OFT turns what layers get, and engines read LoRA",
}
PROMPTS = {
    "PROMPT_TUNING": "a trained prompt is no part of any weight",
    "PREFIX_TUNING": "trained keys and values are no part of any weight",
}
TAKEN = ("LORA", "VERA", *UNSERVED, *PROMPTS)


def residual_init(init_lora_weights: Any) -> bool:
    """Whether peft 0.21's initialisation changes the base's weights, so that A and B alone are not the difference.

    PiSSA, OLoRA, CorDA and LoRA-GA subtract the first B A from the base, LoftQ quantises it
    (peft/tuners/lora/layer.py: pissa_init, olora_init, corda_init, lora_ga_init, loftq_init). EVA, MiCA, orthogonal
    and gaussian leave it as it is.
    """
    name = str(init_lora_weights).lower()
    return name.startswith(("pissa", "corda")) or name in ("olora", "lora_ga", "loftq")


def next_rank(rank: int) -> int:
    """The smallest rank step that holds `rank`; itself beyond the last step."""
    return next((step for step in RANKS if step >= rank), rank)


def leftovers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What of an adapter's (or a recipe's) settings can't be made canonical, each a line."""
    kind = str(config.get("peft_type") or "LORA").upper()
    if kind in UNSERVED:
        return (f"peft_type: {UNSERVED[kind]}; merge instead (form: merged)",)
    if kind in PROMPTS:
        return (f"peft_type: {PROMPTS[kind]}; serve it with peft (engine transformers, form adapter)",)
    return tuple(f"{key}: {why}; merge instead (form: merged)" for key, why in LEFTOVERS.items() if config.get(key))


def read_adapter(adapter: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a PEFT adapter, tensors under peft's names.

    Raises:
        RecipeError: a file is missing or broken, or it is an adapter of a method that is not taken.
        GateError: a tensor is not finite.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = adapter / "adapter_model.safetensors"
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{adapter}: not an adapter with adapter_config.json and {file.name}: {reason}") from None
    if config.get("peft_type") not in TAKEN:
        raise RecipeError(f"{adapter}: peft_type is {config.get('peft_type')!r}; only {', '.join(TAKEN)} are exported")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise GateError(f"export stopped: the adapter's {name} is not finite")
    return config, {clean_name(name): tensor for name, tensor in tensors.items()}


def clean_name(name: str) -> str:
    """A tensor's name without what compile, FSDP and peft's adapter name put into it."""
    return WRAPPERS.sub("", name).replace(".default.", ".").removesuffix(".default")


def scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What peft multiplies B A with: lora_alpha / r, or / sqrt(r) (Kalajdzievski 2023); alpha by the module's pattern."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):  # peft.utils.other.get_pattern_key: the first that matches
            alpha = value
            break
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
