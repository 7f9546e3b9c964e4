"""Being told to stop: SIGTERM, SIGINT or SIGUSR1, and the death of the launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Preempted(BaseException):
    """A signal ended the run; what it had is on disk and `--resume auto` goes on from there. Exit code 75."""


class Stop:
    """While it is entered, the first signal ends the run with Preempted, and later ones are ignored.

    At once, except inside `deferred()`: there it only sets `requested`, and the loop ends at a step's border, on all
    processes at the same one.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals wait for the loop to ask; one that came too late for that ends the run on leaving."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested is not None:
            raise Preempted(self.requested)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.requested is not None:
            return
        self.requested = signal.Signals(number).name
        if not self._deferred:
            raise Preempted(self.requested)


def stop_with_parent(number: int = signal.SIGTERM) -> None:
    """Linux sends this process a signal when its parent dies (prctl(2), PR_SET_PDEATHSIG); elsewhere nothing happens.

    `accelerate launch` dies of a SIGTERM and leaves a single trainer behind, which nobody would ever stop.
    """
    pr_set_pdeathsig = 1
    try:
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)
    except (OSError, AttributeError, TypeError):  # TypeError: no C library of the process itself on Windows
        return


def obey_parent(parent: int) -> None:
    """For helper processes of process `parent`: signals to the whole group are its to answer; without it they end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    stop_with_parent(getattr(signal, "SIGKILL", signal.SIGTERM))
    if os.getppid() != parent:  # it died before that
        os._exit(1)
