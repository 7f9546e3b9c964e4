"""Values of Parquet, Arrow and Excel as plain Python: text, numbers, true/false, None, lists and objects."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any


def plain(value: Any) -> Any:
    """Dates and times become ISO text, decimals their digits, UTF-8 bytes text, NaN None, maps objects.

    Raises:
        ValueError: bytes that are not text, or a map whose keys are not text or come twice.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return _map(value) if value and all(isinstance(item, tuple) for item in value) else [plain(i) for i in value]
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{len(value)} bytes that are not UTF-8 text") from None
    raise ValueError(f"a value of type {type(value).__name__} has no plain form")


def _map(pairs: Any) -> dict[str, Any]:
    """An Arrow map comes as a list of (key, value) tuples."""
    result = {key: plain(item) for key, item in pairs}
    if len(result) != len(pairs) or not all(isinstance(key, str) for key in result):
        raise ValueError("a map needs text keys, each once")
    return result
