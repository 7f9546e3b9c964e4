"""Messages to token ids and labels, through the tokenizer's own chat template and nothing else.

The conversation is rendered once. Assistant spans are found by rendering it a second time with private-use marks
around each assistant content and checking that the render without the marks is the plain one. A token is trained when
it starts inside an assistant span; so is the stop token that ends the turn. Positions decide, never token ids, so a
tokenizer whose pad is its eos (SmolLM2) still learns to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.template import Message, Sample
from finetune.errors import DataError

IGNORED = -100  # label of a token that is not trained: torch's cross_entropy ignore_index
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"


@dataclass(frozen=True)
class Example:
    """One encoded conversation; `labels[t]` is `ids[t]` where trained, else IGNORED (not yet shifted)."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    where: str

    @property
    def trained(self) -> int:
        return sum(label != IGNORED for label in self.labels)

    @property
    def stop(self) -> int:
        """Id of the last trained token: the one that ends the turn."""
        return next(label for label in reversed(self.labels) if label != IGNORED)


class ChatEncoder:
    """Renders and encodes conversations with one tokenizer.

    Args:
        tokenizer: a fast tokenizer with a chat template.

    Raises:
        DataError: the tokenizer has no chat template, or is not a fast one (no offsets).
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise DataError(f"the tokenizer of {tokenizer.name_or_path} has no chat template; use an instruct model")
        if not tokenizer.is_fast:
            raise DataError(f"the tokenizer of {tokenizer.name_or_path} is not a fast one (it gives no offsets)")
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.control_tokens = {token.content: token_id for token_id, token in added.items()}
        self.special_ids = {token_id for token_id, token in added.items() if token.special}

    def encode(self, sample: Sample) -> Example:
        """Ids and labels of a whole conversation.

        Raises:
            DataError: control tokens in the text, a template that changes the answer, a turn without a stop token,
                an answer whose first token grows together with the text before it.
        """
        self._refuse_control_tokens(sample.messages, sample.where)
        text = self._render(sample.messages)
        spans = self._assistant_spans(sample.messages, text, sample.where)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        labels = [IGNORED] * len(ids)
        for start, end in spans:
            inside = [t for t, (left, right) in enumerate(offsets) if start <= left < end and right > left]
            stop = self._stop_position(ids, offsets, text, end, sample.where)
            for t in (*inside, stop):
                labels[t] = ids[t]
        prompt_ids = self.encode_prompt(sample.prompt, sample.where)
        first = next(t for t, (left, _) in enumerate(offsets) if left >= spans[-1][0])
        if ids[:first] != prompt_ids:
            raise DataError(
                f"{sample.where}: the ids before the answer are not the ids a server will see for the same prompt "
                "(the chat template renders a finished conversation differently, or the answer's first characters "
                "grow together with the text before them)"
            )
        return Example(tuple(ids), tuple(labels), sample.where)

    def encode_prompt(self, messages: Sequence[Message], where: str = "prompt") -> list[int]:
        """Ids a server feeds the model for these messages: rendered with the generation prompt."""
        self._refuse_control_tokens(messages, where)
        text = self._render(messages, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        return self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def _assistant_spans(self, messages: Sequence[Message], text: str, where: str) -> list[tuple[int, int]]:
        """Character ranges of the assistant contents in the plain render.

        Marks go around the whole content; around its core where the template trims white space.
        """
        for trims in (False, True):
            render = self._render([_marked(message, trims) for message in messages])
            if render.replace(_OPEN, "").replace(_CLOSE, "") == text:
                break
        else:
            raise DataError(
                f"{where}: the chat template changes the assistant's text, so it can't be marked for training"
            )
        spans, removed, start = [], 0, 0
        for position, character in enumerate(render):
            if character == _OPEN:
                start, removed = position - removed, removed + 1
            elif character == _CLOSE:
                spans.append((start, position - removed))
                removed += 1
        turns = sum(message["role"] == "assistant" for message in messages)
        if len(spans) != turns:
            raise DataError(f"{where}: the chat template shows {len(spans)} of {turns} assistant messages")
        return spans

    def _stop_position(self, ids: list[int], offsets: list[Any], text: str, end: int, where: str) -> int:
        """Index of the special token that ends a turn: the first one after `end`, only white space between."""
        for t, (left, right) in enumerate(offsets):
            if left < end:
                continue
            if ids[t] in self.special_ids:
                return t
            if text[left:right].strip():
                break
        raise DataError(
            f"{where}: the chat template ends the assistant's turn with no stop token after {text[:end][-40:]!r}"
        )

    def _refuse_control_tokens(self, messages: Sequence[Message], where: str) -> None:
        """Text of a user or a record must not become a control token (a forged turn)."""
        for message in messages:
            content = message["content"]
            found = sorted(token for token in self.control_tokens if token in content)
            if found:
                raise DataError(
                    f"{where}: the {message['role']} message holds the tokenizer's control token {found[0]!r} as text"
                )
            if _OPEN in content or _CLOSE in content:
                raise DataError(
                    f"{where}: the {message['role']} message holds a private-use character U+E0F0 or U+E0F1"
                )


def _marked(message: Message, trims: bool) -> Message:
    """An assistant message with marks around its content (its core without outer white space when `trims`)."""
    if message["role"] != "assistant":
        return message
    content = message["content"]
    start = len(content) - len(content.lstrip()) if trims else 0
    end = len(content.rstrip()) if trims else len(content)
    return {**message, "content": f"{content[:start]}{_OPEN}{content[start:end]}{_CLOSE}{content[end:]}"}


def encode_all(encoder: ChatEncoder, samples: Sequence[Sample], max_length: int, too_long: str) -> list[Example]:
    """Every sample encoded; answers are never cut.

    Args:
        max_length: tokens of a whole conversation.
        too_long: `error`, or `drop` (the caller says how many were dropped).

    Raises:
        DataError: all problems of all samples at once.
    """
    examples: list[Example] = []
    problems: list[str] = []
    for sample in samples:
        try:
            example = encoder.encode(sample)
        except DataError as error:
            problems += error.problems
            continue
        if len(example.ids) <= max_length:
            examples.append(example)
        elif too_long == "error":
            problems.append(
                f"{sample.where}: {len(example.ids)} tokens, data.max_length is {max_length}; raise it or set "
                "data.too_long: drop"
            )
    if not examples and not problems:
        problems.append(f"data.max_length: all {len(samples)} rows are longer than {max_length} tokens")
    if problems:
        raise DataError(problems)
    return examples
