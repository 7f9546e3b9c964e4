"""Hallucination as its own measure: numbers of an answer that nothing it was given supports, citations that don't bear it out.

Beside a metric's own scores, which hold an answer against its reference, these hold it against the passage: the prompt, or the
passages that it cites. That quantities can be looked up in the source is what Zhao, Cohen and Webber's check of summaries
rests on (arXiv 2009.13312). Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

from finetune.data.metric import Grounded, Metric
from finetune.data.rows import Sample
from finetune.data.toolschema import message_text
from finetune.evaluate.citations import SUPPORT, citation_support, without
from finetune.evaluate.evidence import readings, stands
from finetune.evaluate.figures import Figure, figures, readable, scales_alone
from finetune.evaluate.metrics import at_place
from finetune.evaluate.steps import CHANCE, Results, counts, results, worked_out

NUMBERS, NONE_MADE_UP = "numbers_supported", "no_number_made_up"


@dataclass(frozen=True)
class Passage:
    """What is looked up: the figures of a text, scales that its bare numbers may be meant in, and what steps give."""

    figures: tuple[Figure, ...]
    text: str
    scales: tuple[int, ...]
    results: Results
    counts: frozenset[Decimal]


@dataclass(frozen=True)
class Judged:
    """One figure of an answer, and whether it is supported."""

    figure: Figure
    supported: bool


def beside(answer: str, sample: Sample, metric: Metric) -> dict[str, float]:
    """The scores of this file that the metric asks for, of an answer to the sample."""
    scores: dict[str, float] = {}
    if metric.grounded is not None:
        said, wanted = (_claims(text, metric) for text in (answer, sample.answer))
        scores |= numbers_supported(
            said, wanted, passage_of(sample, metric.grounded), metric.grounded, metric.separator
        )
    if metric.passages is not None:
        scores |= citation_support(answer, sample.answer, _texts(at_place(sample.record, metric.passages)), metric)
    return scores


def problem_of(sample: Sample, metric: Metric) -> str | None:
    """What the passage does not support of the sample's own reference; None where it supports all that `beside` looks at."""
    if metric.grounded is not None:
        judged = judge(
            _claims(sample.answer, metric), passage_of(sample, metric.grounded), metric.grounded, metric.separator
        )
        if made_up := [one.figure.text for one in judged if not one.supported]:
            return (
                f"the reference says {', '.join(dict.fromkeys(made_up))}, which `grounded` does not find in the passage"
            )
    if metric.passages is not None:
        scores = citation_support(
            sample.answer, sample.answer, _texts(at_place(sample.record, metric.passages)), metric
        )
        if scores.get(SUPPORT, 1.0) < 1:
            return "the reference cites a passage that does not hold its text"
    return None


def passage_of(sample: Sample, grounded: Grounded) -> str:
    """What the answer's numbers may come of."""
    shown = [one for one in sample.prompt if grounded.passage == "prompt" or one["role"] == "user"]
    return "\n".join(message_text(one) for one in shown)


def numbers_supported(
    answer: str, reference: str, passage: str, derivable: Grounded, separator: str = ": "
) -> dict[str, float]:
    """How much of an answer's figures the passage supports.

    An answer without figures made none up, but it must not pass for a good one where figures are asked for: it has 0 where the
    reference has some, and so has an answer without a word.

    Returns:
        `numbers_supported`: the share of the answer's figures that are supported; absent where neither it nor the reference
        has any. `no_number_made_up`: 1 when all are.
    """
    judged = judge(answer, passage, derivable, separator)
    if judged:
        right = [one.supported for one in judged]
        return {NUMBERS: sum(right) / len(right), NONE_MADE_UP: float(all(right))}
    if _looked_at(reference, derivable, separator):
        return {NUMBERS: 0.0, NONE_MADE_UP: 0.0}
    return {NONE_MADE_UP: float(any(map(str.isalnum, answer)))}


def judge(answer: str, passage: str, derivable: Grounded, separator: str = ": ") -> list[Judged]:
    """Each figure of an answer, in order.

    Supported is a figure that

    - stands in the passage: the same value, where the passage's rounded to what the answer writes is taken too, if that is two
      digits or more; 万, million and the like are part of the value; a bare number may be meant in a scale that the passage
      or the answer names alone ("amounts in million"), and where none is named in that of the figure it is taken for
      (`derivable.any_scale`: always); percent may be a ratio; a sign may be a word ("down 3 %");
    - is one of `derivable.known`;
    - is the result of a working that the answer shows, "a - b = c", that is right and whose numbers are supported;
    - is what one of `derivable.steps` makes of the passage's numbers, and not by chance (steps.py); none by default.

    Dates and times must agree with one of the passage's in all that they say.
    """
    text = readable(answer)
    whole = _passage(passage, derivable.steps, derivable.within)
    known = [Figure("", -1, -1, Decimal(str(value)), Decimal(0)) for value in derivable.known]
    scales = (*whole.scales, *scales_alone(text))
    claims = figures(text, True, separator)
    pool = [*whole.figures, *known]
    shown: list[Figure] = []  # results of workings, which may be said again
    found: dict[Figure, bool] = {}  # the same figure many times, of a model that repeats itself
    supported: set[int] = set()
    judged = []
    for claim in claims:
        same = replace(claim, start=0, line=0)
        if same not in found:
            found[same] = stands(claim, pool, scales, derivable.any_scale or not scales) or _derived(
                claim, whole, scales, derivable
            )
        good = found[same] or stands(claim, shown, scales)
        if not good and _shown(claim, text, claims, supported):
            good = True
            shown.append(claim)
        if good:
            supported.add(claim.start)
        if claim.name not in derivable.skip:
            judged.append(Judged(claim, good))
    return judged


def _looked_at(text: str, derivable: Grounded, separator: str) -> bool:
    return any(one.name not in derivable.skip for one in figures(readable(text), True, separator))


@lru_cache(maxsize=4)  # of one with 600 numbers the results are 30 MB
def _passage(text: str, steps: tuple[str, ...], within: str) -> Passage:
    plain = readable(text)
    found = figures(plain)
    return Passage(
        found, plain, scales_alone(plain), results(found, plain, steps, within),  # type: ignore[arg-type]
        frozenset(counts(plain) if "count" in steps else ()),
    )  # fmt: skip


def _derived(claim: Figure, passage: Passage, scales: Sequence[int], derivable: Grounded) -> bool:
    if claim.value is None:
        return False
    if claim.value in passage.counts:
        return True
    finest = Decimal(1).scaleb(-derivable.decimals)
    sign = -1 if claim.value < 0 else 1
    meant = readings(claim, scales)
    return any(
        passage.results.reach(float(sign * value), float(min(step, finest)), claim.falling, CHANCE / len(meant))
        for value, step in meant
    )


def _shown(claim: Figure, text: str, claims: Sequence[Figure], supported: set[int]) -> bool:
    """Whether a claim is the result of a working that is right and whose operands are `supported` (by their places)."""
    working = worked_out(text, claim.start, claims) if claim.value is not None else None
    if working is None:
        return False
    operands, value = working
    return all(one.start in supported for one in operands) and _comes_to(claim, value)


def _comes_to(claim: Figure, value: float) -> bool:
    """Whether a claimed result is what the working comes to, as far as it is written."""
    reach = [(float(mine), float(step)) for mine, step in readings(claim, ())]
    sign = -1 if claim.value is not None and claim.value < 0 else 1
    return any(abs(sign * mine - value) <= step / 2 + 1e-9 * abs(value) for mine, step in reach)


def _claims(text: str, metric: Metric) -> str:
    """The answer without the numbers of its citations."""
    return without(text, metric.cites) if metric.name == "citations" else text


def _texts(passages: object) -> list[str]:
    """Each passage as one text; a record's row of a table is the texts of its cells."""
    rows = passages if isinstance(passages, list | tuple) else []
    return [
        row if isinstance(row, str) else "\n".join(cell for cell in row.values() if isinstance(cell, str))
        for row in rows
        if isinstance(row, str | dict)
    ]
