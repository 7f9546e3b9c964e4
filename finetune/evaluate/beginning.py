"""Attention of many rows to a beginning that they share: its keys and values are read once for all rows, not once a row.

A row's attention over [beginning, own] is the average of its attention over each part, weighted by the parts' sums of
exponentials (Juravsky et al. 2024, Hydragen, eq. 5; the same algebra as in Dao et al. 2022, FlashAttention, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Queries (B, H, T, D), keys and values (B, H, C, D), a mask to add (B, 1, T, C) or None, the scale
# -> (B, H, T, D), and log of the sum of exponentials (B, H, T) in float32.
Attend = Callable[..., tuple[torch.Tensor, torch.Tensor]]
BEYOND = (
    "softcap",
    "s_aux",
    "position_bias",
    "cache",
    "sliding_window",
)  # what a call may ask for that is not done here


@contextmanager
def beginning_read_once(model: Any, shared: int, attend: Attend | None) -> Iterator[None]:
    """Inside, rows whose first `shared` keys are the same attend to them together, where the model attends by sdpa.

    Args:
        model: of transformers. Others that compute meanwhile are not touched.
        attend: the device's; None leaves all as it is.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if attend is None or not shared or model.config._attn_implementation != "sdpa":
        yield
        return
    ALL_ATTENTION_FUNCTIONS["sdpa"] = _Attention({id(module) for module in model.modules()}, shared, attend, plain)
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = plain  # in the table's own layer, which hides the one below it


class _Attention:
    """In place of transformers' sdpa_attention_forward, which is `plain`."""

    def __init__(self, modules: set[int], shared: int, attend: Attend, plain: Callable[..., Any]) -> None:
        self.modules, self.shared, self.attend, self.plain = modules, shared, attend, plain
        self.mask: torch.Tensor | None = None  # the one that `added` and `seen` were made of: all layers have the same
        self.added: torch.Tensor | None = None
        self.seen: torch.Tensor | None = None

    def __call__(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any,
        dropout: float = 0.0, scaling: float | None = None, **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        """Query (B, H, T, D), key and value (B, G, S + C, D), mask (B, 1, T, S + C) of bools -> (B, T, H, D)."""
        rows, heads, count, width = query.shape
        fits = attention_mask is not None and attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1
        alone = rows == 1 or key.shape[2] <= self.shared or any(kwargs.get(name) is not None for name in BEYOND)
        fits = fits and key.shape[3] == value.shape[3] == width
        if id(module) not in self.modules or not fits or alone or dropout:
            return self.plain(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        groups = key.shape[1]
        self._set(attention_mask, heads // groups)
        scale = width**-0.5 if scaling is None else scaling
        # The heads of a group are more queries to the same keys: (B, G, N, D), N = H / G * T.
        asked = query.reshape(rows, groups, -1, width)
        own, weight = self.attend(
            asked, key[:, :, self.shared :], value[:, :, self.shared :], self.added, scale
        )  # (B, G, N, D)
        together = asked.transpose(0, 1).reshape(1, groups, -1, width)  # (1, G, B * N, D)
        first, other = self.attend(together, key[:1, :, : self.shared], value[:1, :, : self.shared], None, scale)
        first = first.reshape(groups, rows, -1, width).transpose(0, 1)
        share = torch.sigmoid(weight - other.reshape(groups, rows, -1).transpose(0, 1)).to(own.dtype)  # (B, G, N)
        if self.seen is not None:
            share = share * self.seen
        found = torch.lerp(first, own, share[..., None])
        return found.reshape(rows, heads, count, -1).transpose(1, 2).contiguous(), None

    def _set(self, mask: torch.Tensor, heads: int) -> None:
        """Once a pass: what is added to scores of a row's own keys, for each of the group's heads, and who sees any."""
        if mask is self.mask:
            return
        own = mask[..., self.shared :]
        added = torch.zeros(own.shape, device=own.device).masked_fill(~own, -torch.inf)  # (B, 1, T, C)
        self.mask, self.added = mask, added.repeat(1, 1, heads, 1)
        seen = own.any(-1)  # (B, 1, T); padding sees none
        self.seen = None if mask.shape[2] == 1 else seen.repeat(1, 1, heads)
