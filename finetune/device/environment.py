"""What the process's environment says, and what is set in it before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def before_torch() -> None:
    """torch imports a device's package by itself unless told not to; a torch_npu without its CANN would end every
    command there, also those that need no NPU. finetune/device/npu.py imports it where it is wanted."""
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


def launcher_setting(name: str) -> str:
    """A setting that `accelerate launch` passes on in the environment, in small letters; "" without it."""
    return os.environ.get(name, "").lower()


def local_rank() -> int:
    """This process's number on its machine, as the launcher set it; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def colours(stream: TextIO) -> bool:
    """Whether to colour what goes there: a terminal, and NO_COLOR (no-color.org) is not set; rich asks by itself."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def launched() -> bool:
    """Whether a launcher (accelerate launch, torchrun) started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def for_another_engine(**more: str) -> dict[str, str]:
    """This process's environment for a program that computes by itself: without what the launcher said of a process
    group, which it would try to join, and with `more`."""
    ours = (
        "TORCH_DEVICE_BACKEND_AUTOLOAD",
        "RANK",
        "WORLD_SIZE",
        "GROUP_RANK",
        "ROLE_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    )
    begins = ("LOCAL_", "ACCELERATE_", "TORCHELASTIC_", "FSDP_")
    kept = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith(begins)}
    return kept | more


@contextmanager
def unchanged_environment() -> Iterator[None]:
    """What a library sets in the environment inside is taken back at the end."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
