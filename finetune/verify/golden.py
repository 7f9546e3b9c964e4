"""Golden samples: prompts of the evaluation with the token ids, the greedy answer and the score they had there.

They lie in the bundle as `golden.jsonl`, one a line, beside `golden.json` with what they have in common, so that a
server can be checked without the data, the data template or the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from finetune.data.rows import Message, Sample
from finetune.data.template import Metric
from finetune.errors import DataError, RecipeError, plainly, writing
from finetune.evaluate.metrics import Scores, reference_of, score_rows

if TYPE_CHECKING:
    from finetune.data.chat import ChatEncoder
    from finetune.evaluate.generate import Answer

SAMPLES, FACTS = "golden.jsonl", "golden.json"  # their names in a bundle

# What tokenizers and templates of other engines are known to get wrong: digits after white space, runs of it, tabs,
# JSON, full-width forms, characters outside the vocabulary, white space at the ends that a template may strip.
TEXTS = (
    "a  1\n\n2 b",
    "1. one\n2. two\n\n\n10. ten",
    "\tx\t\ty   z  12345.678",
    '{"id": 7, "values": [1, -2.5e-3, null], "ok": true}',
    "２０２６年１１月，温度－３．５℃（约）",
    "It's naïve – don't… 🙂 é ﬁ",
    "  both ends \n",
    "GET /v1?a=b&c=%20 <b>x</b> --flag=\\n",
)


@dataclass(frozen=True)
class Golden:
    """One sample of the evaluation.

    Attributes:
        where: `file:line` of its row.
        messages: the prompt's conversation, without the answer.
        prompt_ids: what the model was fed for it.
        answer: the evaluated model's greedy answer, stripped, without special tokens.
        answer_ids: its tokens; a stop token at the end counts for nothing.
        finished: whether it stopped by itself before the evaluation's limit.
        reference: what answers are held against, see metrics.reference_of.
        metric: how `scores` came about, so that another answer can be scored without the data template.
        base_answer: the base model's greedy answer to the same prompt; None when nobody asked it.
        logprobs: natural log-probability of each of `answer_ids` in the evaluated model; None when not computed.
    """

    where: str
    task: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    prompt_ids: tuple[int, ...]
    reference: str
    answer: str
    answer_ids: tuple[int, ...]
    finished: bool
    metric: Metric
    scores: Scores
    base_answer: str | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Probe:
    """A conversation and the prompt ids that the tokenizer's own chat template gives it."""

    messages: tuple[Message, ...]
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What all golden samples of a bundle have in common.

    Attributes:
        name: the recipe's.
        base: the base's identity as the manifest has it.
        stop_ids, stop_tokens: what ends an answer.
        dtype: of the evaluated model.
        max_new_tokens: the evaluation's limit.
        texts: texts and their ids without special tokens.
        probes: conversations that no row was made of.
    """

    name: str
    base: dict[str, Any]
    stop_ids: tuple[int, ...]
    stop_tokens: tuple[str, ...]
    chat_template_sha256: str
    dtype: str
    max_new_tokens: int
    texts: tuple[tuple[str, tuple[int, ...]], ...]
    probes: tuple[Probe, ...]


def make_golden(
    samples: Sequence[Sample],
    prompt_ids: Sequence[Sequence[int]],
    answers: Sequence[Answer],
    metrics: Mapping[str, Metric],
    base_answers: Sequence[Answer] | None = None,
    logprobs: Sequence[Sequence[float]] | None = None,
) -> list[Golden]:
    """One golden sample of each sample.

    Args:
        answers, base_answers: of the evaluated model and of its base, in the order of the samples.
        metrics: by the `task` of a sample, as `Prepared.metrics` has them.
        logprobs: of each answer's tokens, in the evaluated model.
    """
    of_samples = [metrics[sample.task] for sample in samples]
    references = [reference_of(sample, metric) for sample, metric in zip(samples, of_samples, strict=True)]
    scores = score_rows([answer.text for answer in answers], references, of_samples)
    return [
        Golden(
            where=sample.where,
            task=sample.task,
            messages=sample.prompt,
            tools=sample.tools,
            prompt_ids=tuple(prompt_ids[i]),
            reference=references[i],
            answer=answers[i].text,
            answer_ids=tuple(answers[i].ids),
            finished=answers[i].finished,
            metric=of_samples[i],
            scores=scores[i],
            base_answer=base_answers[i].text if base_answers is not None else None,
            logprobs=tuple(logprobs[i]) if logprobs is not None else None,
        )
        for i, sample in enumerate(samples)
    ]


def make_facts(
    name: str, base: dict[str, Any], encoder: ChatEncoder, stop_ids: Sequence[int], dtype: str, max_new_tokens: int
) -> Facts:
    """The common facts, with probes encoded by the tokenizer that trained.

    A conversation that the chat template refuses (one without the role `system`) is left out.
    """
    tokenizer = encoder.tokenizer
    probes = []
    for messages in _conversations():
        try:
            probes.append(Probe(messages, tuple(encoder.encode_prompt(messages))))
        except DataError:
            continue
    return Facts(
        name=name,
        base=base,
        stop_ids=tuple(stop_ids),
        # a base may stop at an id that its tokenizer has no token for
        stop_tokens=tuple(tokenizer.convert_ids_to_tokens(id) or f"id {id}" for id in stop_ids),
        chat_template_sha256=hashlib.sha256(tokenizer.chat_template.encode()).hexdigest(),
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        texts=tuple((text, tuple(tokenizer(text, add_special_tokens=False).input_ids)) for text in TEXTS),
        probes=tuple(probes),
    )


def _conversations() -> list[tuple[Message, ...]]:
    """Each text as a user's line; with and without a system message; a second turn."""
    alone: list[tuple[Message, ...]] = [({"role": "user", "content": text},) for text in TEXTS]
    system = {"role": "system", "content": "Answer in one line."}
    user = {"role": "user", "content": "Which is larger, 12 or 7?"}
    again = {"role": "user", "content": "And 3 or 30?"}
    return [*alone, (system, user), (user, {"role": "assistant", "content": "12"}, again)]


def write_golden(file: Path, goldens: Sequence[Golden]) -> None:
    """One JSON object a line. Raises RecipeError when the place can't be written."""
    lines = [json.dumps(asdict(g) | {"metric": g.metric.model_dump()}, ensure_ascii=False) + "\n" for g in goldens]
    with writing(file):
        file.write_text("".join(lines), encoding="utf-8")


def read_golden(file: Path) -> list[Golden]:
    """All golden samples of a file.

    Raises:
        RecipeError: `file:line: what is wrong` for every line that is not a golden sample; no file; no line.
    """
    adapter = TypeAdapter(Golden)
    goldens, problems = [], []
    lines = _text(file).removesuffix("\n").split("\n")  # not splitlines: text may hold U+2028
    for number, line in enumerate(lines if any(lines) else [], 1):
        try:
            goldens.append(adapter.validate_json(line))
        except ValidationError as error:
            problems += [f"{file}:{number}: {_said(item)}" for item in error.errors()]
    if not goldens and not problems:
        problems.append(f"{file}: no golden sample in it")
    if problems:
        raise RecipeError(problems)
    return goldens


def write_facts(file: Path, facts: Facts) -> None:
    """JSON. Raises RecipeError when the place can't be written."""
    with writing(file):
        file.write_text(json.dumps(asdict(facts), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_facts(file: Path) -> Facts:
    """Raises RecipeError: no file, or not such facts, a line each."""
    try:
        return TypeAdapter(Facts).validate_json(_text(file))
    except ValidationError as error:
        raise RecipeError([f"{file}: {_said(item)}" for item in error.errors()]) from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise RecipeError(f"{file}: can't be read: {why}") from None


def _said(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    return f"{place}: {plainly(item)}" if place else plainly(item)
