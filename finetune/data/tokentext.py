"""Token ids as readable text, one piece a token: what a person sees of a sample."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.chat import IGNORED, Example

_CUT = "\ufffd"  # what decoders write for a character whose bytes are not all there
_MOST = 4  # a character has at most four bytes in UTF-8, so at most four tokens


@dataclass(frozen=True)
class TokenText:
    """One token; or several, where only together they are a character.

    Attributes:
        ids: the token ids.
        text: what they add to the decoded text.
        trained: the loss counts them.
        control: a token of the chat template or the vocabulary's added ones, not text.
        stop: a stop token that is trained, at the end of its turn.
    """

    ids: tuple[int, ...]
    text: str
    trained: bool
    control: bool
    stop: bool


class TokenReader:
    """Reads examples of one tokenizer token by token."""

    def __init__(self, tokenizer: Any, stop_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        added = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
        self._control = {token_id: text for token_id, text in added.items() if text.strip()}

    def read(self, example: Example, start: int = 0, end: int | None = None) -> tuple[TokenText, ...]:
        """The tokens from `start` to `end` (excluded)."""
        end = len(example.ids) if end is None else end
        texts: list[TokenText] = []
        anchor = max(0, start - 1)  # decoded along: some decoders drop the space before the first token they get
        while start < end:
            trained = example.labels[start] != IGNORED
            stop = self._end_of_text(example, anchor, start, end)
            ids = example.ids[start:stop]
            control = self._control.get(ids[0])
            text = self._added(example.ids, anchor, start, stop) if control is None else control
            last = stop == len(example.labels) or example.labels[stop] == IGNORED
            ends = trained and last and ids[0] in self._stop_ids
            texts.append(TokenText(ids, text, trained, control is not None, ends))
            anchor, start = start, stop
        return tuple(texts)

    def _end_of_text(self, example: Example, anchor: int, start: int, end: int) -> int:
        """Where the piece that begins at `start` ends: after one token, or where a cut character is complete."""
        for stop in range(start + 1, min(start + _MOST, end) + 1):
            if example.ids[stop - 1] in self._control:
                break
            if (example.labels[stop - 1] == IGNORED) != (example.labels[start] == IGNORED):
                break
            if not self._added(example.ids, anchor, start, stop).endswith(_CUT):
                return stop
        return start + 1

    def _added(self, ids: Sequence[int], anchor: int, start: int, stop: int) -> str:
        """What ids[start:stop] add to the text of ids[anchor:start]."""
        before, both = self._decode(ids[anchor:start]), self._decode(ids[anchor:stop])
        return both[len(before) :] if both.startswith(before) else self._decode(ids[start:stop])

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text
