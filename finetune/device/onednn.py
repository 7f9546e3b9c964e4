"""oneDNN's matrix products with a weight that is put in its order once, as torch.compile has them for frozen weights.

torch's own linear layer reorders a bfloat16 weight at every call, which for few rows costs more than the product: 64 rows by
(1536, 576) took 0.33 ms so and 0.13 ms here (two cores with AMX).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Product(Protocol):
    """x (..., I), added (..., O) or None -> x @ weight.T + bias + added, rounded once."""

    def __call__(self, x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor: ...


def packed_linear(weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> Product | None:
    """The product with this weight (O, I), which is copied; None where this build or chip has nothing quicker than torch's.

    Args:
        rows: of x, about.
    """
    import torch

    operators = torch.ops.mkldnn
    if weight.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return None
    needed = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    if not all(hasattr(operators, name) for name in needed) or not operators._is_mkldnn_bf16_supported():
        return None  # the last: of a chip without AVX-512, or the like
    packed = operators._reorder_linear_weight(weight, rows)
    plain, plus = operators._linear_pointwise.default, operators._linear_pointwise.binary

    def product(x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        if added is None:
            return plain(x, packed, bias, "none", [], "")
        return plus(x, added, packed, bias, "add")

    return product
