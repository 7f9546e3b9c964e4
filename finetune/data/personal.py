"""Personal data and secrets in text: where they stand, and text with `[PHONE]` and the like in their place.

Tuned to industry data, where most long digit runs are measurements: a number counts only with a checksum, a known
prefix or a word beside it that says what it is. A name or an address is not found; nobody should take silence for proof.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from finetune.data.detectors import DETECTORS
from finetune.data.rows import Message, Sample
from finetune.errors import RecipeError

SECRETS = frozenset(detector.kind for detector in DETECTORS if detector.secret)
PERSONAL = frozenset(detector.kind for detector in DETECTORS if not detector.secret)
LABELS = {detector.kind: detector.label for detector in DETECTORS}
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


@dataclass(frozen=True)
class Match:
    """One find in a text: characters `start` to `end` (excluded); `note` says more where there is more to say."""

    kind: str
    start: int
    end: int
    note: str = ""


@lru_cache(maxsize=4096)  # system messages repeat
def find_private(text: str) -> tuple[Match, ...]:
    """All matches in order of place, none overlapping.

    Raises:
        RecipeError: python-stdnum is not installed.
    """
    _require_stdnum()
    if not text.isascii():
        text = text.translate(_HALF_WIDTH)  # one character for one: places stay
    taken: list[Match] = []
    for detector in DETECTORS:
        if detector.needs and not any(word in text for word in detector.needs):
            continue
        for found in detector.pattern.finditer(text):
            start, end = found.span("value") if "value" in detector.pattern.groupindex else found.span()
            note = detector.check(found)
            if note is not None and all(end <= other.start or start >= other.end for other in taken):
                taken.append(Match(detector.kind, start, end, note))
    return tuple(sorted(taken, key=lambda match: match.start))


def redact_text(text: str, kinds: Collection[str]) -> str:
    """The text with its matches of these kinds replaced by their labels."""
    for match in reversed(find_private(text)):
        if match.kind in kinds:
            text = text[: match.start] + LABELS[match.kind] + text[match.end :]
    return text


def private_in_message(message: Message) -> list[tuple[str, Match]]:
    """(text, match in it) over everything in a message but its role: content, reasoning, names, tool call arguments."""
    texts = (text for key, value in message.items() if key != "role" for text in _texts(value))
    return [(text, match) for text in texts for match in find_private(text)]


def redact_sample(sample: Sample, kinds: Collection[str]) -> Sample:
    """The sample with messages, tools and record redacted; JSON inside tool call arguments stays JSON."""
    messages, rejected = (
        tuple(
            {key: value if key == "role" else _redact(value, kinds) for key, value in message.items()}
            for message in conversation
        )
        for conversation in (sample.messages, sample.rejected)
    )
    tools = tuple(_redact(tool, kinds) for tool in sample.tools)
    return replace(sample, record=_redact(sample.record, kinds), messages=messages, tools=tools, rejected=rejected)


def mask(text: str) -> str:
    """Enough of a find to recognise it in one's own data, not enough to use it: `138…78 (11 characters)`."""
    shown = f"{text[:3]}…{text[-2:]}" if len(text) >= 9 else "…"
    return f"{shown} ({len(text)} characters)"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, int) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _redact(value: Any, kinds: Collection[str]) -> Any:
    if isinstance(value, str):
        redacted = redact_text(value, kinds)
        if redacted != value and _is_json(value) and not _is_json(redacted):  # a bare number: it becomes a JSON string
            return json.dumps(_redact(json.loads(value), kinds), ensure_ascii=False)
        return redacted
    if isinstance(value, int) and not isinstance(value, bool):
        redacted = redact_text(str(value), kinds)
        return value if redacted == str(value) else redacted
    if isinstance(value, dict):
        return {key: _redact(item, kinds) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_redact(item, kinds) for item in value)
    return value


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@cache
def _require_stdnum() -> None:
    if importlib.util.find_spec("stdnum") is None:
        raise RecipeError(
            "data.screen.personal_data: the package python-stdnum is not installed; pip install python-stdnum, "
            "or switch personal_data and secrets off"
        )
