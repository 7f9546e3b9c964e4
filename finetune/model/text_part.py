"""Of a model that also takes images or sound, the parts that text never goes through."""

from __future__ import annotations

import re
from typing import Any


def beside_text(model: Any) -> str | None:
    """A pattern of the linear layers beside the text decoder (a vision tower, a projector); None where there are none.

    `all-linear` would cover them: adapters that no text trains, and that engines refuse to serve. transformers'
    AutoModelForCausalLM gives the whole of such a model for some families (Gemma 3), the text model for others (Qwen3.5).
    """
    import torch

    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    name = next((name for name, module in model.named_modules() if module is decoder and name), "")
    parent = name.rpartition(".")[0]
    if not parent:
        return None
    beside = [
        f"{parent}.{child}"
        for child, module in model.get_submodule(parent).named_children()
        if module is not decoder and any(isinstance(part, torch.nn.Linear) for part in module.modules())
    ]
    return rf"(.*\.)?({'|'.join(map(re.escape, beside))})(\..*)?" if beside else None
