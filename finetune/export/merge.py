"""The adapter folded into the base's weights: the sum in float32, one cast at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from finetune.errors import GateError
from finetune.model.load import Source


def load_with_adapter(source: Source, adapter_folder: Path, base_dtype: torch.dtype) -> Any:
    """The evaluated model again, from disk: base weights as they were in training, computed in float32.

    The base is loaded in `base_dtype` first and widened after, so that a base trained in bfloat16 is the same here.
    """
    from peft import PeftModel

    base = source.load(dtype=base_dtype, attn_implementation="eager").float()
    return PeftModel.from_pretrained(base, str(adapter_folder)).eval()


def merge(source: Source, adapter_folder: Path, base_dtype: torch.dtype, dtype: torch.dtype) -> Any:
    """A plain model with the adapter in its weights, in `dtype`.

    Raises:
        GateError: a weight of the adapter or of the result is not finite.
    """
    model = load_with_adapter(source, adapter_folder, base_dtype)
    for name, tensor in model.named_parameters():
        if "lora_" in name and not torch.isfinite(tensor).all():
            raise GateError(f"export stopped: the adapter's {name} is not finite")
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise GateError(f"export stopped: {error}") from None
    merged = merged.to(dtype)
    merged.config.dtype = dtype
    merged.config.use_cache = True
    return merged
