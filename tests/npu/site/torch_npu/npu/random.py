"""torch.npu.random."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from torch_npu import hardware, random_state

__all__ = [
    "get_rng_state", "get_rng_state_all", "initial_seed", "manual_seed", "manual_seed_all", "seed", "seed_all",
    "set_rng_state", "set_rng_state_all",
]  # fmt: skip


def get_rng_state(device: Any = "npu") -> torch.Tensor:
    return random_state.get(hardware.index_of(device))


def get_rng_state_all() -> list[torch.Tensor]:
    return [random_state.get(index) for index in range(hardware.DEVICES)]


def set_rng_state(new_state: torch.Tensor, device: Any = "npu") -> None:
    random_state.put(hardware.index_of(device), new_state)


def set_rng_state_all(new_states: Sequence[torch.Tensor]) -> None:
    for index, state in enumerate(new_states):
        random_state.put(index, state)


def manual_seed(seed: int) -> None:
    random_state.seed(hardware.current, int(seed))


def manual_seed_all(seed: int) -> None:
    for index in range(hardware.DEVICES):
        random_state.seed(index, int(seed))


def seed() -> None:
    manual_seed(time.time_ns() % (1 << 32))


def seed_all() -> None:
    manual_seed_all(time.time_ns() % (1 << 32))


def initial_seed() -> int:
    return random_state.seed_of(hardware.current)
