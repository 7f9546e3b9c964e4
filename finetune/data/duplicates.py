"""Copies: rows that are the same or nearly the same, inside one set or in two."""

from __future__ import annotations

import hashlib
import json
import unicodedata
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from finetune.data.rows import Message, Sample
from finetune.errors import RecipeError

SHINGLE = 5  # characters; about one English word, or two to three Chinese ones
PERMUTATIONS = 128  # of a MinHash
PRINTS: tuple[Literal["raw", "normalised", "prompt"], ...] = ("raw", "normalised", "prompt")  # digests of a row
BOILERPLATE_ROWS = 10  # what stands in more rows than this (and in a tenth of all) says nothing about a single one

# Unicode calls these "default ignorable": they change no glyph that a reader sees.
_IGNORED = str.maketrans("", "", "\u00ad\u034f\u061c\u180e\ufeff") | {
    code: None
    for first, last in ((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0xFE00, 0xFE0F))
    for code in range(first, last + 1)
}


@dataclass(frozen=True)
class Print:
    """Digests of one sample: as it stands, normalised, and its prompt normalised (None where nobody asks anything)."""

    raw: bytes
    normalised: bytes
    prompt: bytes | None


def normalise(text: str) -> str:
    """Text as a reader sees it: NFKC, no zero-width characters, case folded, each run of white space one space."""
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", text).translate(_IGNORED).casefold()
        text = unicodedata.normalize("NFKC", folded)  # folding may leave what NFKC would still join
    else:
        text = text.lower()
    return " ".join(text.split())


def fingerprint(sample: Sample) -> Print:
    """The sample's digests, over role, text, reasoning and tool calls of each message and the tools on offer."""
    parts = [(message["role"], *message_texts(message)) for message in sample.everything_said]
    tools = json.dumps(sample.tools, ensure_ascii=False, sort_keys=True) if sample.tools else ""
    plain = [(role, *(normalise(text) for text in texts)) for role, *texts in parts]
    asked = any(message["role"] != "system" for message in sample.prompt)
    prompt = plain[: len(sample.prompt)]
    return Print(_digest((parts, tools)), _digest((plain, tools)), _digest(prompt) if asked else None)


def message_texts(message: Message) -> tuple[str, ...]:
    """Everything that is said in a message: content, reasoning, tool calls (as JSON)."""
    calls = message.get("tool_calls")
    called = json.dumps(calls, ensure_ascii=False, sort_keys=True, default=str) if calls else ""
    return (message.get("content") or "", message.get("reasoning_content") or "", called)


def first_of(keys: np.ndarray) -> np.ndarray:
    """(n,) the first place that has the same key, for (n,) keys of type S; an empty key is equal to none."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.where(keys == b"", np.arange(len(keys)), first[inverse])


def find_copies(raw: np.ndarray, normalised: np.ndarray) -> list[tuple[int, int, Literal["raw", "normalised"]]]:
    """(row, earlier row it repeats, how) of every row but the first of its kind; the same bytes go before variants.

    Args:
        raw, normalised: (rows,) digests of type S16.
    """
    first_raw, first = first_of(raw), first_of(normalised)
    here = np.arange(len(raw))
    return [
        (int(row), int(first_raw[row]), "raw") if first_raw[row] < row else (int(row), int(first[row]), "normalised")
        for row in np.flatnonzero((first_raw < here) | (first < here))
    ]


def find_overlap(
    train: Mapping[str, np.ndarray], evaluate: Mapping[str, np.ndarray]
) -> list[tuple[int, int, Literal["raw", "normalised", "prompt"]]]:
    """(training row, held-out row, what is the same) of every training row that is in the held-out rows too.

    An equal prompt is enough, whatever the answer: the question has been seen.

    Args:
        train, evaluate: (rows,) digests of type S16 under the names in PRINTS; an empty one equals nothing.
    """
    overlap: dict[int, tuple[int, Literal["raw", "normalised", "prompt"]]] = {}
    for how in PRINTS:
        ours, theirs = train[how], evaluate[how]
        keys, first = np.unique(theirs, return_index=True)
        places = np.minimum(np.searchsorted(keys, ours), len(keys) - 1)
        for row in np.flatnonzero((keys[places] == ours) & (ours != b"")):
            overlap.setdefault(int(row), (int(first[places[row]]), how))
    return [(row, *overlap[row]) for row in sorted(overlap)]


def near_text(sample: Sample) -> str:
    """What near duplicates are compared by: all messages but the system's, normalised."""
    said = [message for message in sample.everything_said if message["role"] != "system"]
    texts = [text for message in said for text in message_texts(message)]
    return normalise("\n".join(text for text in texts if text))


@dataclass
class NearIndex:
    """Texts that can be asked for their nearest one: MinHash LSH proposes, the exact Jaccard index decides.

    The sets are those of all `SHINGLE` successive characters, so that text without spaces works as well, less the
    boilerplate (see `find_boilerplate`). Broder 1997 (resemblance), Leskovec et al., Mining of Massive Datasets, 3.4.

    Attributes:
        threshold: least Jaccard index, 0 to 1.
        boilerplate: shingles that don't count.
    """

    threshold: float
    boilerplate: frozenset[str] = frozenset()
    _texts: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError:
            raise RecipeError(
                "data.screen.near_duplicates: the package datasketch is not installed; pip install 'finetune[screen]'"
            ) from None
        self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=_bands(self.threshold))
        self._empty = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=zlib.crc32)

    def nearest(self, text: str) -> tuple[int, float] | None:
        """(key, Jaccard index) of the nearest text at or above the threshold; of equals the one added first."""
        wanted = self._shingles(text)
        if not wanted:
            return None
        best: tuple[int, float] | None = None
        for key in sorted(self._lsh.query(self._sketch(wanted))):
            other = self._shingles(self._texts[key])
            jaccard = len(wanted & other) / len(wanted | other)
            if jaccard >= self.threshold and (best is None or jaccard > best[1]):
                best = (key, jaccard)
        return best

    def add(self, key: int, text: str) -> None:
        """Keys must differ."""
        shingles = self._shingles(text)
        if shingles:
            self._texts[key] = text
            self._lsh.insert(key, self._sketch(shingles))

    def _shingles(self, text: str) -> set[str]:
        return shingles(text) - self.boilerplate

    def _sketch(self, items: set[str]) -> Any:
        sketch = self._empty.copy()
        sketch.update_batch([item.encode("utf-8", "surrogatepass") for item in items])
        return sketch


def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows in each) that propose a pair at the threshold with probability 0.999 or more.

    That is 1 - (1 - threshold ** rows) ** bands (Mining of Massive Datasets, 3.4.2). What LSH misses is lost, what it
    proposes wrongly is only work, so the most selective bands are taken that miss so little.
    """
    rows = PERMUTATIONS
    while rows > 1 and (1 - threshold**rows) ** (PERMUTATIONS // rows) > 0.001:
        rows -= 1
    return PERMUTATIONS // rows, rows


def shingles(text: str) -> set[str]:
    """All runs of `SHINGLE` characters; a shorter text is one of its own."""
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))} if text else set()


def find_boilerplate(texts: Sequence[str]) -> frozenset[str]:
    """Shingles of the instructions and field names that a data template writes into every row.

    Counted in about 2,000 evenly spaced texts: what more than a tenth of them have (and more than `BOILERPLATE_ROWS`).
    With them every two METAR reports under one prompt would be near duplicates.
    """
    chosen = texts[:: max(1, len(texts) // 2000)]
    counts = Counter(shingle for text in chosen for shingle in shingles(text))
    limit = max(BOILERPLATE_ROWS, len(chosen) // 10)
    return frozenset(shingle for shingle, count in counts.items() if count > limit)


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=16).digest()
