"""Ratings of many kinds to good, bad or neither; what a number means is told by the others, or has to be said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune.data.conversation import brief
from finetune.errors import DataError

Verdict = Literal["good", "bad", "between", ""]  # empty: no rating

GOOD = frozenset(
    {
        "up", "true", "good", "yes", "like", "liked", "positive", "thumbs_up", "thumbs-up", "thumbsup", "thumb_up",
        "👍", "赞", "好", "有用",
    }
)  # fmt: skip
BAD = frozenset(
    {
        "down", "false", "bad", "no", "dislike", "disliked", "negative", "thumbs_down", "thumbs-down", "thumbsdown",
        "thumb_down", "👎", "踩", "差", "没用",
    }
)  # fmt: skip
BY_HAND = "--good and --bad say"  # how numbers are read
BETWEEN = frozenset(["neutral", "mixed", "none", "so-so", "一般", "中立"])


@dataclass(frozen=True)
class Scale:
    """Ratings as text (see `key_of`) that count as good and as bad.

    Attributes:
        numbers: how numbers are read, in words; empty where there are none. Other numbers are in between.
    """

    good: frozenset[str]
    bad: frozenset[str]
    numbers: str = ""

    def verdict(self, rating: Any) -> Verdict | None:
        """None: not a rating that this scale knows."""
        if rating is None or rating == "":
            return ""
        key = key_of(rating)
        if key in self.good:
            return "good"
        if key in self.bad:
            return "bad"
        return "between" if key in BETWEEN or (key is not None and _number(key) is not None) else None


def key_of(rating: Any) -> str | None:
    """A rating as text: `true`, `4` (of 4, 4.0 and "4"), words in small letters. None for what can't be one."""
    if isinstance(rating, bool):
        return str(rating).lower()
    text = str(rating).strip().casefold() if isinstance(rating, str | int | float) else None
    number = _number(text) if text else None
    return text if number is None else f"{number:g}"


def scale_of(ratings: Iterable[Any], good: Sequence[str] = (), bad: Sequence[str] = ()) -> Scale:
    """The scale of these ratings.

    Words have a fixed meaning, `good` and `bad` add to it. Numbers mean what `good` and `bad` say where these hold a
    number; else -1 to 1 is told by a -1 (1 is good, 0 in between), 1 to 5 by a 4 or 5 (4 and 5 good, 3 in between).

    Raises:
        DataError: numbers that could be of several scales; a rating said to be both.
    """
    said = {key_of(word) or "" for word in good}, {key_of(word) or "" for word in bad}
    both = sorted(said[0] & said[1])
    if both:
        raise DataError(f"--good and --bad: {', '.join(both)}: can't be both")
    numbers = {number for rating in ratings if (number := _number(key_of(rating) or "")) is not None}
    by_hand = any(_number(key) is not None for key in said[0] | said[1])
    theirs = (frozenset(), frozenset(), BY_HAND) if by_hand else _scale_of_numbers(numbers)
    words = GOOD - said[1], BAD - said[0]
    return Scale(words[0] | said[0] | theirs[0], words[1] | said[1] | theirs[1], theirs[2] if numbers else "")


def _scale_of_numbers(numbers: set[float]) -> tuple[frozenset[str], frozenset[str], str]:
    if not numbers:
        return frozenset(), frozenset(), ""
    if -1 in numbers and numbers <= {-1, 0, 1}:
        return frozenset({"1"}), frozenset({"-1"}), "-1 to 1: 1 is good, -1 bad"
    if numbers <= {1, 2, 3, 4, 5} and max(numbers) >= 4:
        return frozenset({"4", "5"}), frozenset({"1", "2"}), "1 to 5: 4 and 5 are good, 1 and 2 bad"
    shown = ", ".join(f"{number:g}" for number in sorted(numbers)[:6])
    raise DataError(
        f"ratings: the numbers in the logs ({shown}{', ...' if len(numbers) > 6 else ''}) may be of several scales; say which "
        "are good and bad, as --good 1 --bad 0, or --good 4,5 --bad 1,2"
    )


def unknown(rating: Any) -> str:
    """What to say of a rating that no scale knows."""
    return f"rating: {brief(rating)} is not a rating; say what it means with --good or --bad"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e15 else None  # `inf` and `nan` are words here
