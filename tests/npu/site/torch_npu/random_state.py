"""The device's own random numbers: a state of seed and offset, 16 bytes, apart from the CPU's in both directions."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any

import torch

from torch_npu import hardware

STEP = 4  # an op with random numbers moves the offset by so much, whatever it draws
_states: dict[int, tuple[int, int]] = {}  # device -> (seed, offset)
_own: set[int] = set()  # addresses of the generators that are the device's


def seed(index: int, value: int) -> None:
    _states[index] = (value, 0)


def seed_of(index: int) -> int:
    return _states.get(index, (0, 0))[0]


def get(index: int) -> torch.Tensor:
    """(16,) bytes on the CPU."""
    words = [word - (1 << 64) if word >= 1 << 63 else word for word in _states.get(index, (0, 0))]
    return torch.tensor(words, dtype=torch.int64).view(torch.uint8)


def put(index: int, state: torch.Tensor) -> None:
    """Raises RuntimeError where it is no state of `get`."""
    if state.device.type != "cpu" or state.dtype != torch.uint8 or state.numel() != 16:
        raise RuntimeError("emulated npu: a random state is a ByteTensor of 16 on the CPU")
    first, second = state.clone().view(torch.int64).tolist()
    _states[index] = (first % (1 << 64), second)


class Drawing:
    """Inside, the CPU's default generator draws what the device's would; afterwards it is where it was."""

    def __init__(self, index: int | None) -> None:
        self.index = hardware.current if index is None else index

    def __enter__(self) -> None:
        self.kept = torch.default_generator.get_state()
        first, offset = _states.get(self.index, (0, 0))
        torch.default_generator.manual_seed((first * 1000003 + offset * 7919 + 12345) % (1 << 63))
        _states[self.index] = (first, offset + STEP)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.default_generator.set_state(self.kept)


class _Kind(type(torch._C.Generator)):  # type: ignore[misc]
    """Every generator is an instance of torch.Generator, also those that were made before it was replaced."""

    def __instancecheck__(cls, value: Any) -> bool:
        return type.__instancecheck__(torch._C.Generator, value)


class Generator(torch._C.Generator, metaclass=_Kind):
    """torch.Generator, for the device too: one of the CPU's that says it is the device's. Its state is the CPU's kind."""

    def __new__(cls, device: Any = "cpu") -> Any:
        where = torch.device(device)
        if where.type != "npu":
            return torch._C.Generator(where)
        made = super().__new__(cls)
        made.index = hardware.index_of(where)
        _own.add(made._cdata)
        weakref.finalize(made, _own.discard, made._cdata).atexit = False
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("npu", self.index)


def of_device(generator: Any) -> bool:
    """Whether an op on the device may draw from it. (Kernels are given another Python object for the same generator.)"""
    return generator._cdata in _own


def install() -> None:
    torch.Generator = Generator  # type: ignore[misc, assignment]
