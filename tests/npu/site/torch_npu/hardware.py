"""The card that is emulated: its name (EMULATED_SOC), how many of them (EMULATED_DEVICES), and what they refuse.

Both are read when torch_npu is imported. Of the runtime's own variables ASCEND_RT_VISIBLE_DEVICES is heeded.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise

import torch

SOC = os.environ.get("EMULATED_SOC", "Ascend910B3")
MEMORY = 64 << 30  # bytes a card
WIDE = (torch.float64, torch.complex128)
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
current = 0  # one for all threads; the runtime has one a thread


# Names that torch_npu 2.13.0 knows, as regular expressions: those with bfloat16, and those of the first generation without.
BFLOAT16 = r"Ascend(910B[1-4]|910B2C|910B4-1|910_93(9[12]|8[12]|72|6[23])|310B[1-4]|950(DT\w*|PR\w*)?)"
FIRST = r"Ascend(910(Premium|Pro)?A|910(Pro)?B|310P[1-57])"


def is_bf16_supported() -> bool:
    """By the name of the card, as the real one tells it. 910B without a digit is of the first generation.

    Raises:
        RuntimeError: there is no card of this name.
    """
    if re.fullmatch(BFLOAT16, SOC):
        return True
    if re.fullmatch(FIRST, SOC):
        return False
    raise RuntimeError(f"Unsupported soc version: {SOC} (EMULATED_SOC)")


def visible_devices(total: int, listed: str | None) -> int:
    """How many cards a process sees.

    Args:
        total: in the machine.
        listed: ASCEND_RT_VISIBLE_DEVICES: their numbers, ascending (else none is seen); it ends at the first that is not there.
    """
    if listed is None:
        return total
    digits = re.match(r"[\d,]*", listed)
    ids = [int(number) for number in digits[0].split(",") if number] if digits else []
    if any(after <= before for before, after in pairwise(ids)):
        return 0
    return len([number for number in ids if number < total])


DEVICES = visible_devices(int(os.environ.get("EMULATED_DEVICES", "2")), os.environ.get("ASCEND_RT_VISIBLE_DEVICES"))


def index_of(device: torch.device | str | int | None = None) -> int:
    """The number of a device; the current one where it says none.

    Raises:
        RuntimeError: there is no such card, or no such kind of cards.
    """
    index = device if isinstance(device, int) else None if device is None else torch.device(device).index
    index = current if index is None or index < 0 else index
    if index >= DEVICES:
        raise RuntimeError(f"emulated npu: no device {index}; there are {DEVICES}")
    is_bf16_supported()  # of a card that it does not know the real one says so at the first use
    return index


def set_current(index: int) -> None:
    global current
    current = index


def refuse_dtype(dtype: torch.dtype, what: str) -> None:
    """Raises RuntimeError where the card would not compute in `dtype`.

    A card turns `.to(torch.float64)` into float32 with a warning and has float64 kernels for few ops; whoever asks for it
    is wrong in either case, so that all of it is refused here.
    """
    if dtype in WIDE:
        raise RuntimeError(f"emulated npu: {what}: {dtype} is not to be had on the device; copy to the CPU, then cast")
    if dtype in EIGHT_BITS:
        raise RuntimeError(f"emulated npu: {what}: {dtype} is not to be had on {SOC}")
    if dtype == torch.bfloat16 and not is_bf16_supported():
        raise RuntimeError(f"emulated npu: {what}: torch.bfloat16 is not to be had on {SOC}")
