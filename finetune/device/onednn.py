"""oneDNN's matrix products: with a weight that is put in its order once, as torch.compile has them for frozen weights, and of
few sizes.

torch's own linear layer reorders a bfloat16 weight at every call, which for few rows costs more than the product: 64 rows by
(1536, 576) took 0.33 ms so and 0.13 ms here (two cores with AMX).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


def few_sizes(count: int, parts: int) -> int:
    """`count` or a little more, so that there are only `parts` numbers between a power of two and the next one.

    For every size of a bfloat16 product that it has not seen oneDNN makes code: 1.5 ms and 0.6 MB with AMX, of which it keeps
    the last 1,024. Each chat of another length has some thirty.
    """
    step = max(1, (1 << (count - 1).bit_length()) // 2 // parts)
    return -(-count // step) * step


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
