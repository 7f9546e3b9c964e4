"""torch.npu.amp, which accelerate uses for float16."""

from __future__ import annotations

import torch

__all__ = ["GradScaler", "autocast"]


class GradScaler(torch.amp.GradScaler):
    """`dynamic`, which the real one has beyond torch's, must be True."""

    def __init__(
        self, init_scale: float = 2.0**16, growth_factor: float = 2.0, backoff_factor: float = 0.5,
        growth_interval: int = 2000, dynamic: bool = True, enabled: bool = True,
    ) -> None:  # fmt: skip
        if not dynamic:
            raise NotImplementedError("emulated npu: GradScaler: dynamic=False")
        super().__init__("npu", init_scale, growth_factor, backoff_factor, growth_interval, enabled)


def autocast(enabled: bool = True, dtype: torch.dtype = torch.float16, cache_enabled: bool = True) -> torch.autocast:
    return torch.autocast("npu", dtype, enabled, cache_enabled)
