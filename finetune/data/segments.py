"""Renders to ids and trained token ranges: stretch by stretch where the tokenizer allows it, over offsets elsewhere.

A tokenizer cuts a text at its added tokens before it does anything else, so that for a plain byte-level tokenizer the
ids of the stretches between them, joined, are the ids of the whole. Each distinct stretch of a batch is tokenised once:
all rows share the system prompt and the role headers. Where a trained range begins within a stretch, the part before it
is tokenised alone too: when the ids of the stretch begin with its ids, a token begins there. No offsets are needed.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

from finetune.data.escape import CLOSE, OPEN, ControlTokens, PieceEncoder, Tokens
from finetune.data.spans import Rendered

_WITHIN = ("ByteLevel", "Split", "Digits", "Sequence")  # pre-tokenizers that look at one stretch and add nothing


@dataclass(frozen=True)
class Spans:
    """The ids of a render, and of each of its trained ranges the first token and the one after the last."""

    ids: list[int]
    ranges: list[tuple[int, int]]


class RenderEncoder:
    """Encodes renders of one tokenizer, many at once."""

    def __init__(self, tokenizer: Any, control: ControlTokens) -> None:
        self.pieces = PieceEncoder(tokenizer, control)
        self.segments = SegmentEncoder(tokenizer) if is_separable(tokenizer) else None

    def encode(self, renders: Sequence[Rendered]) -> list[Spans]:
        """One Spans a render.

        Raises:
            ValueError: a control token can't be written as text.
        """
        quick: list[Spans | None] = self.segments.encode(renders) if self.segments else [None] * len(renders)
        rest = [render for render, spans in zip(renders, quick, strict=True) if spans is None]
        slow = zip(rest, self.pieces.encode([render.text for render in rest]) if rest else (), strict=True)
        return [by_offsets(*next(slow)) if spans is None else spans for spans in quick]


def is_separable(tokenizer: Any) -> bool:
    """Whether added tokens cut every text into parts that the tokenizer encodes each by itself.

    So it is for byte-level BPE without dropout that normalises nothing (or to NFC), puts no space before a text, and
    whose added tokens take no white space with them and are looked for in the text as it is.
    """
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    normalizer, before = pipeline["normalizer"], _flat(pipeline["pre_tokenizer"])
    return (
        pipeline["model"]["type"] == "BPE"
        and pipeline["model"]["dropout"] is None
        and (normalizer is None or normalizer["type"] == "NFC")
        and "ByteLevel" in (part["type"] for part in before)
        and all(part["type"] in _WITHIN and not part.get("add_prefix_space") for part in before)
        and not any(
            token[flag]
            for token in pipeline["added_tokens"]
            for flag in ("lstrip", "rstrip", "single_word", "normalized")
        )
    )


def _flat(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    parts = pre_tokenizer.get("pretokenizers", ())
    return [pre_tokenizer, *(inner for part in parts for inner in _flat(part))]


class SegmentEncoder:
    """Encodes renders of one separable tokenizer (see `is_separable`), many at once."""

    def __init__(self, tokenizer: Any) -> None:
        self.backend = tokenizer.backend_tokenizer
        self._added = {token.content: [i] for i, token in tokenizer.added_tokens_decoder.items()}
        longest_first = sorted(self._added, key=len, reverse=True)  # the tokenizer prefers them so too
        self._added[""] = []
        self._cut = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def encode(self, renders: Sequence[Rendered]) -> list[Spans | None]:
        """One Spans a render; None where it holds escaped control tokens, or a trained range begins or ends within a
        token: such a render needs offsets (PieceEncoder)."""
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = False
        cuts = [list(filter(None, self._cut.split(render.text))) for render in renders]
        heads = [_heads(parts, render) for parts, render in zip(cuts, renders, strict=True)]
        needed = dict.fromkeys(chain.from_iterable(cuts))
        needed.update(dict.fromkeys(head for row in heads for _, head in row.values()))
        texts = [text for text in needed if text not in self._added]
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        known = self._added | {text: encoding.ids for text, encoding in zip(texts, encodings, strict=True)}
        return [_joined(render, parts, row, known) for render, parts, row in zip(renders, cuts, heads, strict=True)]


def _heads(parts: list[str], render: Rendered) -> dict[int, tuple[int, str]]:
    """Of each border of a trained range, the part that it lies in, and the piece of that part before it."""
    starts = list(accumulate(map(len, parts), initial=0))
    heads: dict[int, tuple[int, str]] = {}
    for trained in render.trained:
        for border in trained[:2]:
            part = bisect_right(starts, border) - 1
            heads[border] = part, parts[part][: border - starts[part]] if part < len(parts) else ""
    return heads


def _joined(
    render: Rendered, parts: list[str], heads: dict[int, tuple[int, str]], known: dict[str, list[int]]
) -> Spans | None:
    if OPEN in render.text or CLOSE in render.text:
        return None
    ids: list[int] = []
    starts = []  # of each part, how many tokens are before it
    for part in parts:
        starts.append(len(ids))
        ids += known[part]
    starts.append(len(ids))
    before = {}  # of each border, how many tokens are before it
    for border, (number, head) in heads.items():
        of_head = known[head]
        if of_head and known[parts[number]][: len(of_head)] != of_head:
            return None
        before[border] = starts[number] + len(of_head)
    return Spans(ids, [(before[left], before[right]) for left, right, _ in render.trained])


def by_offsets(render: Rendered, tokens: Tokens) -> Spans:
    """The ranges found by the places of the tokens in the render."""
    ranges = [
        (_first_inside(tokens, render.text, left), bisect_left(tokens.offsets, (right,)))
        for left, right, _ in render.trained
    ]
    return Spans(tokens.ids, ranges)


def _first_inside(tokens: Tokens, text: str, start: int) -> int:
    """Index of the first token that begins at `start` or later.

    Some tokenizers leave the spaces of a token out of its offsets: a token behind a gap of spaces begins where the
    token before it ends.
    """
    offsets = tokens.offsets
    first = bisect_left(offsets, (start,))
    before = offsets[first - 1][1] if first > 0 else 0
    gap = text[before:start]
    if before < start and gap.strip(" ") == "" and first < len(offsets):
        return first + 1
    return first
