"""What rendering one message may cost: no value beyond `Limits.characters`, no render beyond `Limits.seconds`."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2
from pydantic import Field

from finetune.data.columns import Part

MAX_COUNT = 10_000  # items of range(), and the largest width, indent or count that a filter takes
MAX_BITS = 4096  # of a whole number
_ATOMS = (bool, float, range, type(None), jinja2.Undefined, Iterator, dt.date, dt.time, dt.timedelta, dt.tzinfo)


class LimitError(jinja2.TemplateRuntimeError):
    """The template makes too much, runs too long, or makes what is not plain data."""


class Limits(Part):
    """What one message may cost. `seconds` are of this thread's processor time, so a busy machine changes nothing."""

    seconds: float = Field(2.0, gt=0, le=10)
    characters: int = Field(1_000_000, ge=1, le=10_000_000)


DEFAULT = Limits()  # type: ignore[call-arg]


class _Meter:
    """What the running render may still spend."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = 20 * limits.characters
        self.calls = 0
        self.deadline = time.thread_time() + limits.seconds

    def spend(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise LimitError(f"makes more than {20 * self.limits.characters:,} characters on the way")
        self.calls += 1
        ask = units > MAX_COUNT or self.calls % 16 == 0  # the clock costs as much as a filter
        if ask and time.thread_time() > self.deadline:
            raise LimitError(f"takes longer than {self.limits.seconds:g} seconds")


_METER: ContextVar[_Meter | None] = ContextVar("meter", default=None)


@contextmanager
def limited(limits: Limits) -> Generator[None]:
    """What runs inside spends from these limits."""
    token = _METER.set(_Meter(limits))
    try:
        yield
    finally:
        _METER.reset(token)


def most() -> int:
    """Characters that one value may have now."""
    meter = _METER.get()
    return (meter.limits if meter else DEFAULT).characters


def allow(size: int) -> None:
    """Raises LimitError before a value of this many characters would be made."""
    if size > most():
        raise LimitError(f"makes a value of more than {most():,} characters or items")


def tick(units: int) -> bool:
    """One turn of a loop or one call of a macro. Always true, so that it can stand in a condition."""
    meter = _METER.get()
    if meter:
        meter.spend(units)
    return True


def made(value: Any) -> Any:
    """The value, which the template has made, counted."""
    tick(10 + (len(value) if type(value) is str and len(value) <= 1000 else size_of(value)))
    return value


def size_of(value: Any) -> int:
    """Characters and items in a plain value, all the way down; at most `most()`.

    Raises:
        LimitError: it is larger, or not plain data (a macro, a namespace).
    """
    size = _size(value, most())
    allow(size)
    return size


def _size(value: Any, stop: int) -> int:
    """As `size_of`, but counts no further than a little beyond `stop`."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, _ATOMS):
        return 1
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise LimitError(f"makes a whole number of more than {MAX_BITS} bits")
        return 1
    if not isinstance(value, Collection):
        raise LimitError(f"a {type(value).__name__.lower()} is not text, a number, a list or an object")
    size = 1
    for item in value.items() if isinstance(value, dict) else value:
        if isinstance(item, jinja2.Undefined):
            str(item)  # a strict one says what is missing
        size += _size(item, stop - size)
        if size > stop:
            break
    return size
