"""Control tokens in the text of rows: found, marked, and encoded as the plain text they are.

A user who types `<|im_end|>` must not end a turn. Every string of a conversation is searched for the tokenizer's
control tokens; those found are wrapped in two private-use characters before rendering, so that after rendering they
can be told from the template's own. The render is then encoded in pieces: marked tokens without the added vocabulary,
everything between them normally. The pieces are cut where `apply_chat_template(sanitize_control_tokens=True)` of
transformers cuts them, so the ids are those of a server that sanitises its input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "\U0010fff0", "\U0010fff1"  # around a control token that came with the data
DOMAIN_TOKENS = "domain_tokens"  # in tokenizer_config.json; transformers 4 and 5 keep keys that they don't know
_RESERVED = "\U00100000-\U0010ffff"  # private-use plane 16: our marks, refused in data
_ANY_RESERVED = re.compile(f"[{_RESERVED}]")
_BRACKETED = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_HTML = re.compile(
    r"</?(a|b|blockquote|body|br|caption|code|dd|div|dl|dt|em|h[1-6]|head|hr|html|i|img|li|ol|p|pre|s|span|strong|"
    r"sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul)>"
)


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Added tokens that steer a model, longest first.

    All special ones, those that `tokenizer.chat_control_tokens` lists, and every other one in angle or square brackets
    (`<think>`, `<tool_call>`, `[THINK]`). Words added for a field (`model.add_tokens`, whatever brackets they have), white
    space, and HTML elements that the chat template does not write itself (Gemma's vocabulary has some) are text.
    """
    words = domain_tokens(tokenizer)
    listed = set(getattr(tokenizer, "chat_control_tokens", None) or ())
    template = tokenizer.chat_template or ""
    found = set()
    for token in tokenizer.added_tokens_decoder.values():
        text = token.content
        bracketed = _BRACKETED.fullmatch(text) and (not _HTML.fullmatch(text) or text in template)
        if text.strip() and (token.special or text in listed or (bracketed and text not in words)):
            found.add(text)
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


def domain_tokens(tokenizer: Any) -> frozenset[str]:
    """Words that were added to a tokenizer as text, as its tokenizer_config.json remembers them."""
    return frozenset((getattr(tokenizer, "init_kwargs", None) or {}).get(DOMAIN_TOKENS) or ())


def mark_domain_tokens(tokenizer: Any, words: Sequence[str]) -> None:
    """These added tokens are text that came with data, not control tokens; saved with the tokenizer."""
    if words:
        tokenizer.init_kwargs[DOMAIN_TOKENS] = sorted({*domain_tokens(tokenizer), *words})


@dataclass(frozen=True)
class Piece:
    """A stretch of a render: its characters, where they stand in it, and whether control tokens in it are text."""

    text: str
    start: int
    as_text: bool


class ControlTokens:
    """Finds and marks the control tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokens = control_tokens(tokenizer)
        any_token = "|".join(map(re.escape, self.tokens)) or "(?!)"
        self.pattern = re.compile(any_token)
        self._firsts = tuple({token[0] for token in self.tokens})
        self._marked = re.compile(f"{OPEN}({any_token}){CLOSE}|[{OPEN}{CLOSE}]")

    def suspicious(self, value: Any) -> bool:
        """Whether any string in a nested value (keys too) holds a control token or one of our marks."""
        return any(self.in_text(text) for text in strings(value))

    def in_text(self, text: str) -> bool:
        """Whether a text holds a control token or one of our marks."""
        if not text.isascii() and _ANY_RESERVED.search(text):
            return True
        for first in self._firsts:  # a look for single characters costs next to nothing and mostly says no
            if first in text:
                return self.pattern.search(text) is not None
        return False

    def found_in(self, value: Any) -> list[str]:
        """Every control token in the strings of a nested value, in order, repeats kept."""
        return [token for text in strings(value) for token in self.pattern.findall(text)]

    def in_keys(self, value: Any) -> bool:
        """Whether a key of a nested value holds a control token; keys can't be escaped."""
        if isinstance(value, dict):
            return any(self.pattern.search(str(key)) or self.in_keys(item) for key, item in value.items())
        return isinstance(value, list | tuple) and any(self.in_keys(item) for item in value)

    def escaped(self, value: Any) -> Any:
        """The value with every control token in its strings (not in its keys) wrapped in marks."""
        if isinstance(value, str):
            return self.pattern.sub(f"{OPEN}\\g<0>{CLOSE}", value)
        if isinstance(value, dict):
            return {key: self.escaped(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.escaped(item) for item in value]
        return value

    def pieces(self, render: str) -> list[Piece]:
        """A render with marks as pieces; a mark that lost its partner (a template cut between them) only separates."""
        if OPEN not in render and CLOSE not in render:
            return [Piece(render, 0, False)]
        pieces, end = [], 0
        for match in self._marked.finditer(render):
            pieces.append(Piece(render[end : match.start()], end, False))
            if match[1] is not None:
                pieces.append(Piece(match[1], match.start(1), True))
            end = match.end()
        pieces.append(Piece(render[end:], end, False))
        return [piece for piece in pieces if piece.text]


def strings(value: Any) -> Iterator[str]:
    """All strings of a nested value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def holds_reserved(value: Any) -> bool:
    """Whether a string in the value holds a character that we use as a mark."""
    return any(_ANY_RESERVED.search(text) for text in strings(value))


def unmarked(text: str) -> str:
    """Text for a message to the user: without marks."""
    return _ANY_RESERVED.sub("", text)


@dataclass(frozen=True)
class Tokens:
    """Ids with the first and the end character of each token in the render (marks counted)."""

    ids: list[int]
    offsets: Sequence[tuple[int, int]]


class _Offsets(Sequence[tuple[int, int]]):
    """The offsets of one encoding, fetched one by one: a search needs few of them, and a list of all costs time."""

    def __init__(self, encoding: Any) -> None:
        self.encoding = encoding

    def __len__(self) -> int:
        return len(self.encoding)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self.encoding):
            raise IndexError(index)
        return self.encoding.token_to_chars(index)


class PieceEncoder:
    """Encodes marked renders, many at once."""

    def __init__(self, tokenizer: Any, control: ControlTokens) -> None:
        self.backend = tokenizer.backend_tokenizer
        self.control = control
        self.newline_ids = tuple(self.backend.encode("\n", add_special_tokens=False).ids)

    def encode(self, renders: Sequence[str]) -> list[Tokens]:
        """One Tokens a render; all stretches of all renders go through the tokenizer in one call."""
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = False
        cut = [self.control.pieces(render) for render in renders]
        # A stretch after the first is encoded behind a line break, so that no prefix space is put before it.
        texts = [piece.text if piece.start == 0 else "\n" + piece.text for row in cut for piece in row]
        encodings = iter(self.backend.encode_batch(texts, add_special_tokens=False))
        return [self._joined([(piece, next(encodings)) for piece in row]) for row in cut]

    def _joined(self, row: list[tuple[Piece, Any]]) -> Tokens:
        if len(row) == 1 and row[0][0].start == 0 and not row[0][0].as_text:
            return Tokens(row[0][1].ids, _Offsets(row[0][1]))
        all_ids: list[int] = []
        all_offsets: list[tuple[int, int]] = []
        for piece, encoding in row:
            ids, spans = (self._as_text(piece), None) if piece.as_text else (encoding.ids, encoding.offsets)
            if spans is None:
                spans = [(0, len(piece.text))] * len(ids)
            elif piece.start:
                lead = len(self.newline_ids)
                if tuple(ids[:lead]) == self.newline_ids:
                    ids, spans = ids[lead:], [(left - 1, right - 1) for left, right in spans[lead:]]
                else:  # the line break grew together with the stretch
                    alone = self.backend.encode(piece.text, add_special_tokens=False)
                    ids, spans = alone.ids, alone.offsets
            all_ids.extend(ids)
            all_offsets.extend((piece.start + left, piece.start + right) for left, right in spans)
        return Tokens(all_ids, all_offsets)

    def _as_text(self, piece: Piece) -> list[int]:
        """Ids of a control token spelled out: the tokenizer's pipeline without its added vocabulary.

        Raises:
            ValueError: the model's own vocabulary holds the token, so that its text can't be told from it.
        """
        for lead in (self.newline_ids, ()):
            ids = self._plain("\n" + piece.text if lead else piece.text)
            if tuple(ids[: len(lead)]) == lead:
                break
        ids = ids[len(lead) :]
        if self.backend.token_to_id(piece.text) in ids:
            raise ValueError(f"the control token {piece.text!r} can't be written as text with this tokenizer")
        return ids

    def _plain(self, text: str) -> list[int]:
        backend = self.backend
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        words = [text]
        if backend.pre_tokenizer is not None:
            words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for word in words for token in backend.model.tokenize(word)]
