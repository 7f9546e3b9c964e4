"""The interval of a share of yes and no: of how many of n."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson(count: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of count / rows (Wilson 1927, doi:10.1080/01621459.1927.10502953, in closed form).

    It stays within 0 and 1 and is sensible at 0 and at n of n, where the bootstrap gives no width at all.

    Returns:
        Lower and upper end; (0, 1) of no rows, which say nothing.
    """
    if not 0 <= count <= rows:
        raise ValueError(f"{count} of {rows}")
    if rows == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = count / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return max(0.0, middle - half), min(1.0, middle + half)
