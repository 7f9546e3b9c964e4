"""The base as a 4-bit run saw it: each weight quantised to nf4 and back before the delta is added (QLoRA)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from finetune.errors import RecipeError
from finetune.export.weights import FLOATS, Stored

BLOCKSIZE = 64  # bitsandbytes' for nf4, as transformers' BitsAndBytesConfig has it


@dataclass(frozen=True)
class Held(Stored):
    """A tensor whose bytes are in memory, not those of its file."""

    data: torch.Tensor = field(default_factory=lambda: torch.empty(0), compare=False)

    def read_into(self, buffer: torch.Tensor, start: int) -> None:
        """Fills `buffer` (uint8) with the tensor's bytes from `start` on."""
        buffer.copy_(self.data[start : start + buffer.numel()])


def check_bitsandbytes() -> None:
    """Raises:
    RecipeError: the package is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            "merge into a de-quantised base: the package bitsandbytes is needed; pip install bitsandbytes"
        )


def quantised_weights(model: Any) -> set[str]:
    """Parameters that a 4-bit load quantises: weights of linear layers, the output layer's apart."""
    head = model.get_output_embeddings()
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def to_nf4_and_back(tensor: Stored) -> Held:
    """The tensor with the values that nf4 with double quantisation leaves of it (arXiv 2305.14314, section 3), in its own dtype.

    All of it is in memory: the second quantisation takes the mean over the whole tensor.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    whole = tensor.elements(0, tensor.count).view(tensor.shape)
    packed, state = quantize_4bit(whole, blocksize=BLOCKSIZE, quant_type="nf4", compress_statistics=True)
    back = dequantize_4bit(packed, state).to(FLOATS[tensor.dtype]).contiguous()
    facts = {entry.name: getattr(tensor, entry.name) for entry in fields(Stored)}
    return Held(**facts, data=back.view(-1).view(torch.uint8))
