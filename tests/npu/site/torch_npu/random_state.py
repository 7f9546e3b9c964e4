"""The device's own random numbers: a state of seed and offset, 16 bytes, apart from the CPU's in both directions."""

from __future__ import annotations

from types import TracebackType

import torch

from torch_npu import hardware

STEP = 4  # an op with random numbers moves the offset by so much, whatever it draws
_states: dict[int, tuple[int, int]] = {}  # device -> (seed, offset)


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
