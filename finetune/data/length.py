"""Conversations longer than `data.max_length`: refused, left out, cut at turn borders, or with a shorter prompt.

A trained answer is never cut. What happened to a row is in its Fitted, and counted by `encode_all`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.data.chat import ChatEncoder, Example
from finetune.data.rows import Message, Sample
from finetune.errors import DataError

BATCH = 128  # rows whose texts go through the tokenizer in one call


@dataclass(frozen=True)
class Fitted:
    """What became of one row: its examples, what was done to it (`reasons`), and problems that stop a run."""

    where: str
    examples: tuple[Example, ...] = ()
    reasons: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def encode_all(
    encoder: ChatEncoder, samples: Iterable[Sample], max_length: int, too_long: str
) -> tuple[list[Example], dict[str, int]]:
    """Every sample encoded and fitted to `max_length` tokens.

    Args:
        max_length: tokens of a whole example.
        too_long: `error`; `drop` (the row is left out); `split_turns` (a long conversation becomes several at turn
            borders: the system message and as many of the last turns as fit, then the turns before them, and so on, so
            that each answer is trained once); `truncate_prompt` (the oldest turns are left out, then the longest
            user text loses its beginning, until the last answer fits).

    Returns:
        The examples in the order of the samples, and how many rows each thing happened to (see `fit`), with `rows`
        and `examples`.

    Raises:
        DataError: all problems of all samples at once; also when nothing is left.
    """
    examples: list[Example] = []
    problems: list[str] = []
    counts: Counter[str] = Counter()
    for fitted in fit(encoder, samples, max_length, too_long):
        examples += fitted.examples
        problems += fitted.problems
        counts.update(("rows", *fitted.reasons))
    if not examples and not problems:
        problems.append(f"data.max_length: all {counts['rows']} rows are longer than {max_length} tokens")
    if problems:
        raise DataError(problems)
    return examples, dict(counts) | {"examples": len(examples)}


def fit(encoder: ChatEncoder, samples: Iterable[Sample], max_length: int, too_long: str) -> Iterable[Fitted]:
    """One Fitted a sample, in order; the samples may be a stream. Reasons are

    `one_example_per_turn` (the template drops earlier thoughts), `escaped` (control tokens in the text were made
    text), `reasoning_not_rendered`, `too_long_dropped`, `split_turns`, `oldest_turns_dropped`, `user_text_cut`,
    `answer_too_long_dropped` (an answer with the shortest possible prompt does not fit).
    """
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == BATCH:
            yield from _fit_batch(encoder, batch, max_length, too_long)
            batch = []
    yield from _fit_batch(encoder, batch, max_length, too_long)


def _fit_batch(encoder: ChatEncoder, batch: Sequence[Sample], max_length: int, too_long: str) -> Iterable[Fitted]:
    for sample, row in zip(batch, encoder.encode_rows(batch), strict=True):
        result = row.result
        if sample.marks and not isinstance(result, DataError):
            result = [replace(example, marks=sample.marks) for example in result]
        if isinstance(result, DataError):
            yield Fitted(sample.where, problems=tuple(result.problems))
            continue
        reasons = () if row.plain else _seen(encoder, sample, result)
        longest = max(len(example.ids) for example in result)
        if longest <= max_length:
            yield Fitted(sample.where, tuple(result), reasons)
        elif too_long == "error":
            problem = (
                f"{sample.where}: {longest} tokens, data.max_length is {max_length}; raise it or set "
                "data.too_long: drop"
            )
            yield Fitted(sample.where, reasons=reasons, problems=(problem,))
        elif too_long == "drop":
            yield Fitted(sample.where, reasons=(*reasons, "too_long_dropped"))
        else:
            cut = _split_turns if too_long == "split_turns" else _truncate_prompts
            examples, more = cut(encoder, sample, max_length)
            yield Fitted(sample.where, tuple(examples), (*reasons, *dict.fromkeys(more)))


def _seen(encoder: ChatEncoder, sample: Sample, examples: Sequence[Example]) -> tuple[str, ...]:
    reasons = ["one_example_per_turn"] if len(examples) > 1 else []
    if encoder.special_tokens_in_data == "escape" and encoder.control.suspicious((sample.messages, sample.tools)):
        reasons.append("escaped")
    if encoder.template.reasoning_key is None and any(m.get("reasoning_content") for m in sample.messages):
        reasons.append("reasoning_not_rendered")
    return tuple(reasons)


def _split_turns(encoder: ChatEncoder, sample: Sample, max_length: int) -> tuple[list[Example], list[str]]:
    """Windows from the end: each as long as fits, beginning with a user's message; together they hold every turn."""
    head, body = _head(sample.messages)
    found: list[list[Example]] = []
    reasons = ["split_turns"]
    borders = [i for i in range(head, len(body)) if body[i]["role"] == "user"] or [head]
    borders = [head, *[i for i in borders if i > head]]
    end = len(body)
    while encoder.trained_turns(body[:end]):
        best: tuple[int, list[Example]] | None = None
        last = encoder.trained_turns(body[:end])[-1]
        for start in reversed([border for border in borders if border <= last]):
            examples = _fitting(encoder, sample, [*body[:head], *body[start : last + 1]], max_length)
            if examples is None:
                break
            best = start, examples
        if best is None:
            reasons.append("answer_too_long_dropped")
            best = max(border for border in borders if border <= last), []
        found.append(best[1])
        end = best[0]
        if end == head or encoder.train_on == "last_assistant":
            break
    return [example for window in reversed(found) for example in window], reasons


def _truncate_prompts(encoder: ChatEncoder, sample: Sample, max_length: int) -> tuple[list[Example], list[str]]:
    """A prefix-stable conversation keeps its last answer; else every answer keeps its own prompt's end."""
    turns = encoder.trained_turns(sample.messages)
    together = len(turns) == 1 or len(encoder.encode(sample)) == 1
    examples: list[Example] = []
    reasons: list[str] = []
    for turn in turns[-1:] if together else turns:
        messages = list(sample.messages[: turn + 1])
        if not together:
            messages = [{**m, "train": False} if m["role"] == "assistant" else m for m in messages[:-1]] + messages[-1:]
        kept, why = _truncate_prompt(encoder, sample, messages, max_length)
        examples += kept
        reasons += why
    return examples, reasons


def _truncate_prompt(
    encoder: ChatEncoder, sample: Sample, messages: list[Message], max_length: int
) -> tuple[list[Example], list[str]]:
    """The end of one conversation: fewer old turns, then less of the longest user text."""
    fits = _fitting(encoder, sample, messages, max_length)
    if fits is not None:
        return fits, []
    head, _ = _head(messages)
    borders = [i for i in range(head + 1, len(messages) - 1) if messages[i]["role"] == "user"]
    for start in borders:
        fits = _fitting(encoder, sample, [*messages[:head], *messages[start:]], max_length)
        if fits is not None:
            return fits, ["oldest_turns_dropped"]
    reasons = ["oldest_turns_dropped"] if borders else []
    messages = [*messages[:head], *messages[borders[-1] if borders else head :]]
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if users:
        longest = max(users, key=lambda i: len(messages[i]["content"]))
        fits = _shorter(encoder, sample, messages, longest, max_length)
        if fits is not None:
            return fits, [*reasons, "user_text_cut"]
    return [], ["answer_too_long_dropped"]


def _shorter(
    encoder: ChatEncoder, sample: Sample, messages: list[Message], i: int, max_length: int
) -> list[Example] | None:
    """With as much of the end of message `i` as fits (bisection over its characters); None when one is too much."""
    text: str = messages[i]["content"]
    best: list[Example] | None = None
    low, high = 1, len(text) - 1  # characters kept
    while low <= high:
        middle = (low + high) // 2
        cut = [*messages[:i], {**messages[i], "content": text[len(text) - middle :]}, *messages[i + 1 :]]
        fits = _fitting(encoder, sample, cut, max_length)
        if fits is None:
            high = middle - 1
        else:
            best, low = fits, middle + 1
    return best


def _fitting(
    encoder: ChatEncoder, sample: Sample, messages: Sequence[Message], max_length: int
) -> list[Example] | None:
    """The examples of these messages when all of them fit and the template takes them, else None."""
    result: Any = encoder.encode_many([replace(sample, messages=tuple(messages))])[0]
    if isinstance(result, DataError) or any(len(example.ids) > max_length for example in result):
        return None
    return result


def _head(messages: Sequence[Message]) -> tuple[int, Sequence[Message]]:
    """How many system messages stand at the beginning; they stay in every part of a conversation."""
    head = 0
    while head < len(messages) and messages[head]["role"] == "system":
        head += 1
    return head, messages
