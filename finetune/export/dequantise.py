"""The base as a quantised run saw it: each weight quantised and back, tensor by tensor, before the delta is added."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from finetune.errors import RecipeError
from finetune.export.weights import CODES, Stored
from finetune.model.quantization import METHODS, needs

BLOCKSIZE = 64  # bitsandbytes' for nf4, as transformers' BitsAndBytesConfig has it


@dataclass(frozen=True)
class Held(Stored):
    """A tensor whose bytes are in memory, not those of its file."""

    data: torch.Tensor = field(default_factory=lambda: torch.empty(0), compare=False)

    def read_into(self, buffer: torch.Tensor, start: int) -> None:
        """Fills `buffer` (uint8) with the tensor's bytes from `start` on."""
        buffer.copy_(self.data[start : start + buffer.numel()])


def held(like: Stored, values: torch.Tensor) -> Held:
    """`values`, as what `like` is called and where it comes from."""
    facts = {entry.name: getattr(like, entry.name) for entry in fields(Stored)}
    data = values.contiguous().view(-1).view(torch.uint8)
    facts |= {"dtype": CODES[values.dtype], "shape": tuple(values.shape), "size": data.numel()}
    return Held(**facts, data=data)


@dataclass(frozen=True)
class Through:
    """Quantised and back, as a row of model/quantization.py's METHODS does when a base is loaded.

    Attributes:
        method: the row's name.
        dtype: that the base was loaded in, and the values come back in; None: the tensor's own.
    """

    method: str
    dtype: torch.dtype | None = None

    def check(self) -> None:
        """Raises RecipeError: the method's package is not installed."""
        problems = needs((METHODS[self.method].package,), "merge into a de-quantised base")
        if problems:
            raise RecipeError(problems)

    def __call__(self, tensor: Stored, transposed: bool = False) -> Held:
        """The tensor with the values that the method leaves of it; all of it is in memory.

        Args:
            transposed: it lies as (in, out), as GPT-2's, and is turned for quantising.
        """
        whole = tensor.elements(0, tensor.count).view(tensor.shape)
        whole = whole.to(self.dtype or whole.dtype)
        back = quantised_and_back(whole.T.contiguous() if transposed else whole, self.method)
        return held(tensor, back.T if transposed else back)

    def weights(self, model: Any) -> dict[str, bool]:
        """Parameters that loading quantises, and whether each is turned first: transformers' own choice.

        Args:
            model: of transformers, without weights will do.
        """
        from transformers.pytorch_utils import Conv1D
        from transformers.quantizers.base import get_keys_to_not_convert
        from transformers.quantizers.quantizers_utils import should_convert_module

        left = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
        turned = METHODS[self.method].package == "bitsandbytes"  # which quantises Conv1D, too
        return {
            f"{name}.weight": not isinstance(module, nn.Linear)
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D) if turned else nn.Linear) and should_convert_module(name, left)
        }


def quantised_and_back(weight: torch.Tensor, method: str) -> torch.Tensor:
    """What a method leaves of a weight (out, in), in the weight's dtype."""
    if method == "nf4":  # with double quantisation: arXiv 2305.14314, section 3
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        packed, state = quantize_4bit(weight, blocksize=BLOCKSIZE, quant_type="nf4", compress_statistics=True)
        return dequantize_4bit(packed, state).to(weight.dtype)
    if method == "int8":
        from bitsandbytes.functional import int8_vectorwise_quant

        integers, largest, _ = int8_vectorwise_quant(weight.to(torch.float16))  # (out, in), (out,)
        return row_scaled(integers, largest, weight.dtype)
    from torchao.quantization import quantize_

    from finetune.model.quantise import torchao_config

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(layer, torchao_config(method))
    return layer.weight.dequantize().to(weight.dtype)


def row_scaled(integers: torch.Tensor, largest: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """LLM.int8()'s weight: integer / 127 of the largest value of its row, rounded once; as bitsandbytes' own product has it.

    Args:
        integers: (out, in). largest: (out,), float32.
    """
    return integers.to(dtype).mul_(largest.unsqueeze(1).mul(1.0 / 127.0))
