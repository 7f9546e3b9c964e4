"""Samples of any stage to examples: a conversation gives its own, a document one or its pieces, a preference one of each
answer, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from finetune.data.chat import ChatEncoder, Example
from finetune.data.documents import DocumentEncoder
from finetune.data.fim import Fim
from finetune.data.formats import ROWS_OF_STAGE
from finetune.data.items import Item, LabelledItems, Pair, Pairs
from finetune.data.length import Fitted, fit
from finetune.data.rows import Sample
from finetune.data.store import ExampleStore
from finetune.errors import DataError
from finetune.recipe_data import DataSection
from finetune.recipe_stages import CptSection, SftSection, StageSection

Encoder = ChatEncoder | DocumentEncoder
Encoded = tuple[list[Example], Counter[str]]


@dataclass(frozen=True)
class EncodeSamples:
    """Makes, in whatever process, the function that encodes a chunk of samples; pickles as its settings.

    Args:
        load_tokenizer: called once in each process; picklable (a function of a module, a partial of one).
        stage: what the examples are for; settings: its section.
    """

    load_tokenizer: Callable[[], Any]
    data: DataSection
    stage: str
    settings: StageSection = field(default_factory=SftSection)

    def __call__(self) -> Callable[[Iterable[Sample]], Encoded]:
        encoder = make_encoder(self.load_tokenizer(), self.data, self.settings)
        return partial(encode_chunk, encoder, self.data, ROWS_OF_STAGE[self.stage])


def make_encoder(tokenizer: Any, data: DataSection, settings: StageSection) -> Encoder:
    """What turns a stage's samples into ids: by the chat template, or (cpt) without one.

    Raises:
        DataError, RecipeError: the tokenizer lacks what the stage needs.
    """
    if isinstance(settings, CptSection):
        fim = Fim(settings.fim_rate, settings.fim_spm_rate, settings.fim_seed)
        return DocumentEncoder(tokenizer, data.special_tokens_in_data, settings.eos_token, fim)
    return ChatEncoder(tokenizer, data.train_on, data.special_tokens_in_data)


def fitted(encoder: Encoder, data: DataSection, rows: str, samples: Iterable[Sample]) -> Iterable[Fitted]:
    """What becomes of each sample.

    Args:
        rows: their kind, a value of ROWS_OF_STAGE.
    """
    if isinstance(encoder, DocumentEncoder):
        return encoder.fit(samples, data.max_length, data.too_long)
    if rows == "preference":
        return (_pair(encoder, data, sample) for sample in samples)
    return fit(encoder, samples, data.max_length, data.too_long)


def encode_chunk(encoder: Encoder, data: DataSection, rows: str, samples: Iterable[Sample]) -> Encoded:
    """The examples of some samples, and how many rows each thing happened to (see length.fit).

    Raises:
        DataError: all problems of all of them.
    """
    examples: list[Example] = []
    problems: list[str] = []
    counts: Counter[str] = Counter()
    for row in fitted(encoder, data, rows, samples):
        examples += row.examples
        problems += row.problems
        counts.update(("rows", *row.reasons))
    if problems:
        raise DataError(problems)
    return examples, counts


def encode_items(encoder: Encoder, data: DataSection, rows: str, samples: Iterable[Sample]) -> list[Any]:
    """The items of some samples, in memory.

    Raises:
        DataError: all problems of all of them; also when nothing is left.
    """
    examples, counts = encode_chunk(encoder, data, rows, samples)
    if not examples:
        raise DataError(f"data.max_length: all {counts['rows']} rows are longer than {data.max_length} tokens")
    if rows == "labelled":
        return list(LabelledItems(examples, data.max_length))
    if rows != "preference":
        return examples
    return [Pair(chosen, rejected) for chosen, rejected in zip(examples[::2], examples[1::2], strict=True)]


def items_of(store: ExampleStore, rows: str, max_length: int) -> Sequence[Item]:
    """The examples of a store as what the loop batches.

    Raises:
        DataError: labelled rows that all have one prompt.
    """
    if rows == "preference":
        return Pairs(store)
    if rows != "labelled":
        return store
    items = LabelledItems(store, max_length)
    if not items[0].mismatched.trained:
        raise DataError("data.train: all rows have the same prompt; kto compares with answers to other prompts")
    return items


def _pair(encoder: ChatEncoder, data: DataSection, sample: Sample) -> Fitted:
    """One example of each answer, or none when either is too long: a prompt cut in one of them would be another prompt."""
    sides = (sample, replace(sample, messages=sample.rejected))
    results = [next(iter(fit(encoder, [side], data.max_length, data.too_long))) for side in sides]
    reasons = tuple(dict.fromkeys(reason for result in results for reason in result.reasons))
    problems = tuple(dict.fromkeys(problem for result in results for problem in result.problems))
    if problems or not all(result.examples for result in results):
        return Fitted(sample.where, reasons=reasons, problems=problems)
    if any(len(result.examples) > 1 for result in results):
        problem = "the chat template shows earlier turns otherwise than the last one; answers of one turn are needed"
        return Fitted(sample.where, problems=(f"{sample.where}: {problem}",))
    return Fitted(sample.where, tuple(result.examples[0] for result in results), reasons)
