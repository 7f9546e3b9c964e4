"""Scores of one answer against its reference. Pure functions of text; every score lies between 0 and 1.

A row may count beside its scores (see evaluate/corpus.py): what a corpus comes to is then made of the counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from finetune.data.rows import Sample
from finetune.data.template import Metric
from finetune.errors import DataError, did_you_mean
from finetune.evaluate.cells import table
from finetune.evaluate.citations import citations
from finetune.evaluate.contains import contains
from finetune.evaluate.corpus import corpus_scores, family_of
from finetune.evaluate.dates import date
from finetune.evaluate.jsonanswer import json_answer, schema_problem
from finetune.evaluate.labels import label, label_problem
from finetune.evaluate.mentions import mentions
from finetune.evaluate.normalise import no_simplifier, normalised, pairs, result_of
from finetune.evaluate.program import program
from finetune.evaluate.quantity import quantity
from finetune.evaluate.refusal import REFERENCES, refusal
from finetune.evaluate.tatqa import tatqa
from finetune.evaluate.toolcalls import tool_calls
from finetune.evaluate.unanswerable import unanswerable
from finetune.evaluate.units import no_converter

Scores = dict[str, float]


def fields(answer: str, reference: str, metric: Metric) -> Scores:
    """One field a line, `name<separator>value`. Exact match of each field of the reference (after `normalise`).

    Returns:
        `field_match`: share of the reference's fields with the same value in the answer; `all_fields`: 1 when all are
        right and the answer has no other line; `field/NAME` for each field. A field given twice is wrong.
    """
    expected = dict(_fields(reference, metric))
    given: dict[str, str | None] = {}
    for name, value in _fields(answer, metric):
        given[name] = None if name in given else value
    right = {name: float(given.get(name) == value) for name, value in expected.items()}
    exact = all(right.values()) and given.keys() == expected.keys()
    match = sum(right.values()) / len(right)
    return {"field_match": match, "all_fields": float(exact)} | {
        f"field/{name}": score for name, score in right.items()
    }


def number(answer: str, reference: str, metric: Metric) -> Scores:
    """The result's number against the reference's (thousands separators allowed).

    Where the reference's last line is `label<separator>number`, the answer's last line with that label counts, so a
    working that stops before the result scores nothing; without a label, the last number of the answer.

    Returns:
        `exact`: equal after rounding to the reference's decimals;
        `within_tolerance`: exact, or off by at most `tolerance` times the reference's size.
    """
    result, _ = result_of(answer, reference, metric.separator)
    expected, given = _last_number(reference.strip().splitlines()[-1]), _last_number(result)
    if expected is None or given is None:
        return {"exact": 0.0, "within_tolerance": 0.0}
    exact = round(given, -int(expected.as_tuple().exponent)) == expected
    near = abs(given - expected) <= Decimal(str(metric.tolerance)) * abs(expected)
    return {"exact": float(exact), "within_tolerance": float(exact or near)}


def exact_match(answer: str, reference: str, metric: Metric) -> Scores:
    """`exact_match`: the same text but for white space around it and what `normalise` names."""
    given, wanted = (normalised(text, metric.normalise) for text in (answer, reference))
    return {"exact_match": float(given == wanted)}


METRICS: dict[str, Callable[[str, str, Metric], Scores]] = {
    "fields": fields,
    "number": number,
    "exact_match": exact_match,
    "citations": citations,
    "tool_calls": tool_calls,
    "quantity": quantity,
    "date": date,
    "label": label,
    "json": json_answer,
    "table": table,
    "unanswerable": unanswerable,
    "entities": mentions,
    "relations": mentions,
    "program": program,
    "tatqa": tatqa,
    "refusal": refusal,
    "contains": contains,
}


def score(answers: Sequence[str], references: Sequence[str], metric: Metric) -> Scores:
    """Of all rows: the mean of each score over the rows that have it, and what counts come to."""
    return aggregate(score_rows(answers, references, [metric] * len(answers)))


def score_rows(answers: Sequence[str], references: Sequence[str], metrics: Sequence[Metric]) -> list[Scores]:
    """The scores of each row, by a metric of its own.

    Raises:
        DataError: no such metric.
    """
    for metric in {id(metric): metric for metric in metrics}.values():
        check_metric(metric)
    rows = zip(answers, references, metrics, strict=True)
    return [METRICS[metric.name](answer, wanted, metric) for answer, wanted, metric in rows]


def mean(rows: Sequence[Scores]) -> Scores:
    """Mean of each score over the rows that have it, in the order in which the names come up."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _mean([row[name] for row in rows if name in row]) for name in names}


def aggregate(rows: Sequence[Scores]) -> Scores:
    """Scores of all rows: means as of `mean`, and the scores of each family of counts in the place of its first one."""
    whole, scores = corpus_scores(rows), Scores()
    for name, value in mean(rows).items():
        family = family_of(name)
        scores |= whole[family] if family else {name: value}
    return scores


def reference_of(sample: Sample, metric: Metric) -> str:
    """What an answer to the sample is held against: its own answer, and what the metric asks of its record."""
    return with_record(sample.answer, sample.record, metric)


def with_record(answer: str, record: Mapping[str, Any], metric: Metric) -> str:
    """The answer alone, or a JSON object with it as `answer` and, by key, what `metric.places` names in the record."""
    if not metric.places:
        return answer
    told = {key: at_place(record, place) for key, place in metric.places.items()}
    return json.dumps({"answer": answer, **told}, ensure_ascii=False, default=str)


def check_metric(metric: Metric, file: str = "") -> None:
    """What is wrong with a metric beyond its keys, with the template's `file`.

    Raises:
        DataError: a name that METRICS lacks; a library that a setting needs and that is not installed; labels that share
            a name; what is no JSON Schema.
    """
    where = f"{file}: " if file else ""
    if metric.name not in METRICS:
        raise DataError(f"{where}metric.name: {metric.name!r} is not a metric{did_you_mean(metric.name, METRICS)}")
    problem = (
        ("traditional" in metric.normalise and no_simplifier())
        or (metric.convert and no_converter())
        or (metric.labels and label_problem(metric))
        or (metric.json_schema is not None and schema_problem(metric.json_schema))
    )
    if problem:
        raise DataError(f"{where}{problem}")


# These read a value out of a text; a reference that they can't read would make every answer wrong.
READING = ("quantity", "date", "label", "json", "table")


def reference_problem(reference: str, metric: Metric) -> str | None:
    """Why no answer could be right: the metric can't read the reference itself. None where it can."""
    if metric.name == "refusal" and reference.strip() not in REFERENCES:
        return f"metric refusal: the reference is {_short(reference)!r}; it must be {' or '.join(REFERENCES)}"
    if metric.name not in READING:
        return None
    scores = METRICS[metric.name](reference, reference, metric)
    low = [name for name, value in scores.items() if value < 1 and family_of(name) is None]
    said = _short(reference)
    return f"metric {metric.name} gives the reference {said!r} itself no 1 as {', '.join(low)}" if low else None


def score_names(reference: str, metric: Metric) -> list[str]:
    """Names of the scores that a corpus has by this metric, found by scoring a reference against itself, and beside it."""
    return [*aggregate(score_rows([reference], [reference], [metric])), *metric.beside]


def row_score_names(reference: str, metric: Metric) -> list[str]:
    """Names of the scores that this metric gives a single answer."""
    row = score_rows([reference], [reference], [metric])[0]
    return [name for name in row if family_of(name) is None]


def at_place(record: Mapping[str, Any], place: str) -> Any:
    """`column` or `column.key` of a record; None where it is not."""
    value: Any = record
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _short(text: str) -> str:
    said = " ".join(text.split())
    return said if len(said) <= 60 else said[:57] + "..."


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _fields(text: str, metric: Metric) -> list[tuple[str, str]]:
    found = pairs(text, metric.separator)
    return [(normalised(name, metric.normalise), normalised(value, metric.normalise)) for name, value in found]


def _last_number(text: str) -> Decimal | None:
    """None without a number, and for a run of more than 18 digits (a model that repeats itself)."""
    found = re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?", text.replace("\N{MINUS SIGN}", "-"))
    digits = found[-1].replace(",", "") if found else ""
    return Decimal(digits) if 0 < len(digits) <= 20 else None
