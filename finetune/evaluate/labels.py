"""Scores of an answer that names one class out of several. Pure functions of text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal

from finetune.data.metric import Metric
from finetune.evaluate.citations import bare
from finetune.evaluate.corpus import counts
from finetune.evaluate.normalise import normalised

_CONFIDENCE = re.compile(
    r"[(\[]? ?(?:(?i:confidence|probability|\bp)|置信度|概率|把握)?(?: ?[:=])? ?(?<![\d.])(\d{1,3}(?:\.\d{1,6})?) ?(%)? ?[)\]]?"
    r" ?[.。]?$"
)
# A bare number at the end is part of the answer.
_MARKED = re.compile(r"[(\[]|(?i:confidence|probability|\bp ?[:=])|置信度|概率|把握")


def label(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """The class that the answer names against the reference's.

    Returns:
        `label_right`: the answer names the reference's label, or a synonym, and no other label;
        `one_label`: it names exactly one; `label/NAME`: `label_right` of references of this class, which is its recall.
        With `confidence`, `brier`: 1 - (p - label_right)^2, where p is the probability that the answer gives at its end
        ("(0.8)", "confidence: 80%"; 1 where it gives none); 0 where it names no label or several. Higher is better.
        And the row's counts (evaluate/corpus.py), which give a corpus its F1.
    """
    wanted, given = class_of(reference, metric), class_of(answer, metric)
    right = float(given is not None and given == wanted)
    scores = {"label_right": right, "one_label": float(given is not None)}
    if wanted is not None:
        scores[f"label/{wanted}"] = right
    if metric.confidence:
        probability = confidence_of(answer)
        p = 1.0 if probability is None else probability
        scores["brier"] = 0.0 if given is None else 1.0 - (p - right) ** 2
    classes = ([(name,)] if name is not None else [] for name in (given, wanted))
    return scores | counts("label", *classes)


def class_of(text: str, metric: Metric) -> str | None:
    """The one label that a text names; None for none or several.

    A text that is nothing but one label (but for its confidence, case, width and punctuation) names that label; with
    `metric.whole` no other text names any. Elsewhere longer names come first, so that 不合格 does not name 合格, and a
    name in ASCII letters is no piece of a longer word.
    """
    names = _names(metric)
    text = without_confidence(text) if metric.confidence else text
    said = _bare(text, metric)
    if said in names:
        return names[said]
    if metric.whole:
        return None
    found = {names[match[0]] for match in _any_of(names).finditer(said)}
    return found.pop() if len(found) == 1 else None


def confidence_of(text: str) -> float | None:
    """The probability at the end of a text, between 0 and 1; None without one."""
    match = _confidence(text)
    if match is None:
        return None
    value = Decimal(match[1]) / (100 if match[2] else 1)
    return float(value) if 0 <= value <= 1 else None


def without_confidence(text: str) -> str:
    """The text before the probability at its end, if there is one."""
    match = _confidence(text)
    return match.string[: match.start()] if match else text


def label_problem(metric: Metric) -> str | None:
    """Two labels that share a name once case, width and punctuation are gone."""
    seen: dict[str, str] = {}
    for name, synonyms in metric.labels.items():
        for text in (name, *synonyms):
            owner = seen.setdefault(_bare(text, metric), name)
            if owner != name:
                return f"metric.labels: {text!r} names both {owner!r} and {name!r}"
    return None


def _confidence(text: str) -> re.Match[str] | None:
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    match = _CONFIDENCE.search(plain, max(0, len(plain) - 60))
    return match if match and _MARKED.search(match[0]) else None


def _names(metric: Metric) -> Mapping[str, str]:
    """Every name as it is compared, with its label."""
    return {_bare(text, metric): name for name, its in metric.labels.items() for text in (name, *its)}


def _bare(text: str, metric: Metric) -> str:
    return bare(normalised(text, metric.normalise))


def _any_of(names: Mapping[str, str]) -> re.Pattern[str]:
    parts = []
    for name in sorted(names, key=len, reverse=True):
        before = r"(?<![a-z0-9])" if name[0].isascii() else ""
        after = r"(?![a-z0-9])" if name[-1].isascii() else ""
        parts.append(f"{before}{re.escape(name)}{after}")
    return re.compile("|".join(parts))
