"""Bytes that a weight takes, as it is or in fewer bits."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

Quantised = tuple[str, Mapping[str, Any]]


def stored_bytes(weight: Any, quantised: Quantised | None) -> int:
    """Bytes of one weight.

    Args:
        weight: with `shape`, `numel()` and `element_size()`.
        quantised: the method and its settings (finetune/model/quantization.py's METHODS, or the checkpoint's own
            quantization_config); None: as it is.
    """
    count, size = weight.numel(), weight.element_size()
    if quantised is None:
        return count * size
    method, settings = quantised
    rows = weight.shape[0]
    if method == "nf4" or (method == "bitsandbytes" and settings.get("load_in_4bit")):
        # Half a byte a value; a byte for the scale of 64 of them, four for the scale of 256 scales (arXiv 2305.14314, 3).
        blocks = ceil(count / 64)
        return ceil(count / 2) + blocks + 4 * ceil(blocks / 256)
    if method in ("int8", "bitsandbytes"):
        return count + 4 * rows
    if method == "int8_weight_only":
        return count + size * rows
    if method == "int4_weight_only":  # a byte a value; scale and zero of 32
        return count + ceil(count / 32) * (size + 1)
    if method in ("gptq", "awq"):
        bits, group = int(settings.get("bits", 4)), int(settings.get("group_size", 128))
        groups = ceil(count / (group if group > 0 else weight.shape[1]))
        return ceil(count * bits / 8) + groups * 2 + ceil(groups * bits / 8)
    if method == "torchao":
        return count + ceil(count / 32) * (size + 1)
    return count * size  # compressed-tensors are de-quantised as they are loaded
