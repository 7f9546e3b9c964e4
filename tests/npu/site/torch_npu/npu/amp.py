"""torch.npu.amp, which accelerate uses for float16."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["GradScaler", "autocast"]


class GradScaler(torch.amp.GradScaler):
    """`dynamic`, an argument of the real one, has no meaning here."""

    def __init__(self, *args: Any, dynamic: bool = True, **kwargs: Any) -> None:
        super().__init__("npu", *args, **kwargs)


def autocast(enabled: bool = True, dtype: torch.dtype = torch.float16, cache_enabled: bool = True) -> torch.autocast:
    return torch.autocast("npu", dtype, enabled, cache_enabled)
