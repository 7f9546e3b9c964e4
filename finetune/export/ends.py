"""The embedding and the output layer of a base by its configuration: are they one tensor, and does LoRA go on them?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune.lora_fields import TIED_WAYS_OUT

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
HEADS = ("lm_head", "embed_out")
# Where these stand in transformers' models; a pattern in `target_modules` is for whole names.
PLACES = ("", "model.", "transformer.", "gpt_neox.", "model.decoder.", "model.language_model.", "language_model.model.")


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """config.json's word on it, wherever the text model's settings are; None when it has none."""
    for place in (config, config.get("text_config") or {}):
        if "tie_word_embeddings" in place:
            return bool(place["tie_word_embeddings"])
    return None


def is_tied_by_config(config: Mapping[str, Any]) -> bool | None:
    """The same, or what transformers takes for this kind of model where config.json leaves it out (Gemma's does)."""
    told = is_tied(config)
    if told is not None or "auto_map" in config:
        return told
    from transformers import AutoConfig

    try:
        return bool(AutoConfig.for_model(config["model_type"]).get_text_config().tie_word_embeddings)
    except (KeyError, ValueError, AttributeError):
        return None


def gguf_is_tied(file: Path) -> bool | None:
    """Whether a GGUF file has no output layer of its own; None where there is no such file yet."""
    from gguf import GGUFReader

    if not file.is_file():
        return None
    return all(tensor.name != "output.weight" for tensor in GGUFReader(str(file)).tensors)


def lora_on_ends(settings: Mapping[str, Any]) -> list[str]:
    """The embedding or output layers that `target_modules` names; all-linear leaves them out."""
    targets = settings.get("target_modules") or ()
    if isinstance(targets, str):
        if targets.lower() == "all-linear":
            return []
        names = (*EMBEDDINGS, *HEADS)
        return [name for name in names if any(re.fullmatch(targets, f"{place}{name}") for place in PLACES)]
    return sorted(name for name in targets if name.rpartition(".")[2] in (*EMBEDDINGS, *HEADS))


def ends_problems(settings: Mapping[str, Any], tied: Callable[[], bool | None]) -> list[str]:
    """LoRA on one of two tied layers, or layers to be tied that are two.

    Args:
        settings: of the recipe's `lora:`. tied: whether the base's are one tensor; asked only where it matters.
    """
    named, tying = lora_on_ends(settings), bool(settings.get("ensure_weight_tying"))
    if not named and not tying:
        return []
    answer = tied()
    if named and answer and not tying:
        return [f"lora.target_modules: {', '.join(named)}: {TIED_WAYS_OUT}"]
    if tying and answer is False:
        return ["lora.ensure_weight_tying: the base's embedding and output layer are two tensors; leave it out"]
    return []
