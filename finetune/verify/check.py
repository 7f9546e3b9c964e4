"""What a check says, and what an operator allows."""

from __future__ import annotations

from dataclasses import dataclass

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"


@dataclass(frozen=True)
class Check:
    """What one check found. `fix`: what to do, for a failure."""

    name: str
    status: str
    message: str
    fix: str = ""


@dataclass(frozen=True)
class Limits:
    """What an operator allows.

    Attributes:
        tolerance: how far each mean score may lie below the frozen one; None: 0.02, or one sample of eight or more.
        divergence: how many answers may part from the golden ones, for each token.
        exact: least share of answers that are the golden ones to the letter; None: any.
        first: longest time to the first token in seconds (95th percentile); None: any.
        speed: fewest tokens a second (median); None: any.
    """

    tolerance: float | None = None
    divergence: float = 0.02
    exact: float | None = None
    first: float | None = None
    speed: float | None = None
