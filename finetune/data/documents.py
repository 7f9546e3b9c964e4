"""Plain text to token ids, for continued pre-training: no chat template, every token but the first trained.

A document is what the tokenizer puts before a text (`<s>`, where it does), the text's own tokens, and one token that
ends it. A document that does not fit is cut into pieces between two characters. A piece after the first begins with the
last character of the piece before it, as context that is not trained, so that every token of the document but its very
first is predicted once: none twice, none never.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.chat import IGNORED, Example
from finetune.data.escape import ControlTokens, PieceEncoder, Tokens, holds_reserved
from finetune.data.fim import Fim, fim_tokens
from finetune.data.length import Fitted
from finetune.data.rows import Sample
from finetune.errors import DataError

BATCH, CHARACTERS = 128, 1 << 20  # documents, and characters, that go through the tokenizer in one call


@dataclass(frozen=True)
class Document:
    """One encoded document.

    Attributes:
        ids: with what begins and ends it.
        offsets: first and end character of each token in the text, less those of `lead` and the end; empty where the
            parts were told in another order.
        lead: how many tokens stand before the text.
        fim, fim_too_long: its parts are in another order; they were to be, but would not have fitted.
        escaped: control tokens in the text were made text.
    """

    ids: list[int]
    offsets: Sequence[tuple[int, int]]
    lead: int
    fim: bool
    fim_too_long: bool
    escaped: bool


class DocumentEncoder:
    """Encodes documents with one tokenizer; it needs no chat template.

    Args:
        special_tokens_in_data: control tokens in a text are encoded as text (`escape`), refused (`error`) or left to
            act as control tokens (`allow`).
        eos_token: the token that ends a document; None: the tokenizer's own.

    Raises:
        DataError: the tokenizer is not a fast one, or has no such token.
        RecipeError: `fim` with a tokenizer without tokens for it.
    """

    def __init__(
        self,
        tokenizer: Any,
        special_tokens_in_data: str = "escape",
        eos_token: str | None = None,
        fim: Fim | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise DataError(f"the tokenizer of {tokenizer.name_or_path} is not a fast one (it gives no offsets)")
        self.tokenizer = tokenizer
        self.special_tokens_in_data = special_tokens_in_data
        self.control = ControlTokens(tokenizer)
        self.tokens = PieceEncoder(tokenizer, self.control)
        self.eos = _eos(tokenizer, eos_token)
        self.control_ids = {self.eos}  # what may end a text
        self.lead = _lead(tokenizer)
        self.fim = fim if fim is not None and fim.rate > 0 else None
        self.fim_tokens = fim_tokens(tokenizer) if self.fim else None

    def fit(self, samples: Iterable[Sample], max_length: int, too_long: str) -> Iterator[Fitted]:
        """One Fitted a sample, in order; the samples may be a stream.

        Args:
            too_long: `error`, `drop` (the document is left out) or `split` (it is cut into pieces).

        Reasons are `escaped` (control tokens in the text were made text), `fim`, `fim_too_long` (it would not fit with
        its parts in another order, so it keeps its own), `too_long_dropped` and `split`.
        """
        for batch in _batches(samples):
            results = self.encode_many(batch, max_length)
            for sample, result in zip(batch, results, strict=True):
                yield self._fitted(sample.where, result, max_length, too_long)

    def encode_many(self, samples: Sequence[Sample], max_length: int) -> list[Document | DataError]:
        """Documents, tokenised in one call; one that can't be encoded has its error in its place.

        Args:
            max_length: a document told in another order is not made longer than this.
        """
        texts = [sample.messages[0]["content"] for sample in samples]
        problems = [self._problem(text, sample.where) for text, sample in zip(texts, samples, strict=True)]
        ready = [self._ready(text) if problem is None else "" for text, problem in zip(texts, problems, strict=True)]
        try:
            encoded = self.tokens.encode(ready)
        except ValueError as error:  # a control token that can't be written as text: find its document
            if len(samples) == 1:
                return [DataError(f"{samples[0].where}: {error}")]
            return [self.encode_many([sample], max_length)[0] for sample in samples]
        return [
            problem or self._document(text, tokens, marked != text, max_length)
            for text, marked, tokens, problem in zip(texts, ready, encoded, problems, strict=True)
        ]

    def _document(self, text: str, tokens: Tokens, escaped: bool, max_length: int) -> Document:
        whole = [*self.lead, *tokens.ids, self.eos]
        drawn = self.fim.draw(text) if self.fim else None
        if drawn is not None and self.fim_tokens is not None:
            prefix = self.tokens.encode([self._ready(drawn.prefix)])[0].ids if drawn.prefix else []
            parts = [self._continued(part) for part in (drawn.middle, drawn.suffix)]
            ids = [*self.lead, *self.fim_tokens.told(drawn.spm, prefix, *parts), self.eos]
            if len(ids) <= max_length:
                return Document(ids, (), len(self.lead), True, False, escaped)
        return Document(whole, tokens.offsets, len(self.lead), False, drawn is not None, escaped)

    def _continued(self, text: str) -> list[int]:
        """Ids of what stands within a text: behind a line break, so that no space is put before it."""
        if not text:
            return []
        newline = list(self.tokens.newline_ids)
        behind, alone = (tokens.ids for tokens in self.tokens.encode(["\n" + self._ready(text), self._ready(text)]))
        return behind[len(newline) :] if behind[: len(newline)] == newline else alone

    def _fitted(self, where: str, result: Document | DataError, max_length: int, too_long: str) -> Fitted:
        if isinstance(result, DataError):
            return Fitted(where, problems=tuple(result.problems))
        reasons = [name for name in ("escaped", "fim", "fim_too_long") if getattr(result, name)]
        length = len(result.ids)
        if length <= max_length:
            return Fitted(where, (Example(tuple(result.ids), (IGNORED, *result.ids[1:]), where),), tuple(reasons))
        if too_long == "error":
            problem = f"{where}: {length} tokens, data.max_length is {max_length}; set data.too_long: split (or drop)"
            return Fitted(where, reasons=tuple(reasons), problems=(problem,))
        if too_long == "drop":
            return Fitted(where, reasons=(*reasons, "too_long_dropped"))
        return Fitted(where, tuple(pieces(result, max_length, where)), (*reasons, "split"))

    def _problem(self, text: str, where: str) -> DataError | None:
        if not self.control.in_text(text):
            return None
        if holds_reserved(text):
            return DataError(f"{where}: the text holds a private-use character of U+100000 to U+10FFFF")
        if self.special_tokens_in_data == "error":
            found = dict.fromkeys(self.control.found_in(text))
            return DataError([f"{where}: the text holds the tokenizer's control token {token!r}" for token in found])
        return None

    def _ready(self, text: str) -> str:
        if self.special_tokens_in_data == "escape" and self.control.in_text(text):
            return self.control.escaped(text)
        return text


def pieces(document: Document, max_length: int, where: str) -> list[Example]:
    """The document in pieces of at most `max_length` tokens; see the head of this file.

    Where no border of characters is near (an escaped control token may be as long as a piece), the cut is at a token.
    """
    ids, length = document.ids, len(document.ids)
    found = []
    start = fresh = 0  # the piece's first token, and the first that it is to train
    while fresh < length:
        end = min(start + max_length, length)
        if end < length:
            end = next((i for i in range(end, fresh, -1) if _border(document, i)), end)
        first = max(fresh, 1)  # nothing stands before the document's first token
        labels = (IGNORED,) * (first - start) + tuple(ids[first:end])
        found.append(Example(tuple(ids[start:end]), labels, where))
        fresh = end
        least = max(end - max_length // 2, 1)  # the context never takes more than half of a piece
        start = next((i for i in range(end - 1, least, -1) if _border(document, i)), end - 1)
    return found


def _border(document: Document, index: int) -> bool:
    """Whether a character ends before token `index`: tokens of one character have its offsets, all of them."""
    at = index - document.lead
    if not 0 < at < len(document.offsets):
        return True
    return document.offsets[at][0] >= document.offsets[at - 1][1]


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    characters = 0
    for sample in samples:
        batch.append(sample)
        characters += len(sample.messages[0]["content"])
        if len(batch) == BATCH or characters >= CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _eos(tokenizer: Any, named: str | None) -> int:
    if named is None:
        if tokenizer.eos_token_id is None:
            raise DataError(
                f"the tokenizer of {tokenizer.name_or_path} has no eos_token to end a document with; name one: "
                "cpt.eos_token"
            )
        return int(tokenizer.eos_token_id)
    vocabulary = tokenizer.get_vocab()
    if named not in vocabulary:
        raise DataError(f"cpt.eos_token: {named!r} is not a token of {tokenizer.name_or_path}")
    return int(vocabulary[named])


def _lead(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text: `<s>`, or nothing."""
    plain = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    return list(next((whole[:i] for i in range(len(whole)) if whole[i : i + len(plain)] == plain), []))
