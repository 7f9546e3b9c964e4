"""Which attention a model computes with, where the recipe leaves it open: the device's best one that the model has."""

from __future__ import annotations

import inspect
from typing import Any

EAGER = 'attn_implementation="eager"'  # transformers' advice where an architecture has no other one


def load_with_attention(load: Any, attention: str, free: bool, **options: Any) -> Any:
    """A model through `load` with this attention.

    Args:
        load: takes `attn_implementation` and `options`.
        free: with eager attention where the architecture lacks that one (gpt-oss's sinks, some custom code); else
            transformers' ValueError stands.
    """
    try:
        return load(attn_implementation=attention, **options)
    except ValueError as error:
        if not free or attention == "eager" or EAGER not in str(error):
            raise
        return load(attn_implementation="eager", **options)


def attend_for_answers(model: Any, wanted: str) -> None:
    """Sets the attention that generates; the one that trains stays where the architecture lacks the wanted one."""
    if wanted == "sdpa" and not getattr(model, "_supports_sdpa", True):
        return
    model.set_attn_implementation(wanted)


def cache_argument(model: Any) -> str:
    """What a transformers model calls the keys and values read before: `cache` from 5.24 on, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
