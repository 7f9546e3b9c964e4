"""What `finetune feedback import` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The options that decide what becomes of a row.

    Attributes:
        good, bad: ratings that count as such, as written; empty: by the scale that the ratings show.
        personal_data, secrets: `redact`, `drop`, `error` or `off`.
        near_duplicates: least Jaccard index at which a row is a near copy; None: not looked for.
        least_correction: a correction shorter than this share of the answer is a remark, no answer.
        broken: `error` or `drop`: lines that are no log lines.
        recipe: its held-out prompts are not trained on.
        known: folders of earlier imports; what they have is not used again.
    """

    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    personal_data: str = "redact"
    secrets: str = "drop"
    near_duplicates: float | None = None
    least_correction: float = 0.1
    broken: str = "error"
    recipe: Path | None = None
    known: tuple[Path, ...] = ()
