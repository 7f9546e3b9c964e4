"""One line of the doctor's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARNING, ERROR = "ok", "warning", "error"
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do. `remedy`: for a warning or an error; sometimes advice beside an ok."""

    subject: str
    status: str
    what: str
    remedy: str = ""


def ok(subject: str, what: str) -> Finding:
    return Finding(subject, OK, what)


def warning(subject: str, what: str, remedy: str) -> Finding:
    return Finding(subject, WARNING, what, remedy)


def error(subject: str, what: str, remedy: str) -> Finding:
    return Finding(subject, ERROR, what, remedy)


def worst(findings: Sequence[Finding]) -> str:
    """The status of all together."""
    return max((finding.status for finding in findings), key=(OK, WARNING, ERROR).index, default=OK)


def gib(size: int | float) -> str:
    """`12.3 GiB`; below one, MiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.0f} MiB"
