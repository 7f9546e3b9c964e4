"""TAT-QA's exact match and F1: an answer of spans or a number, and its scale. Pure functions of text.

Counted as the data set's own scorer counts (tatqa_metric.py of github.com/NExTplusplus/TAT-QA; arXiv 2105.07624): numbers are
compared with their scale multiplied in, words without case, punctuation and articles.
"""

from __future__ import annotations

import json
import re
import string

from finetune.data.metric import Metric

SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000, "percent": 0.01}
_NO_NUMERAL = str.maketrans("", "", "'\"\\$€£¥%(),[]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMERAL = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?|[+-]?\.\d{1,40}")
_FLOAT = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,2})?")


def tatqa(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """One span (or the number) a line, then `scale<separator>thousand` (million, billion, percent; none).

    Args:
        reference: in the same form; as metrics.with_record makes it, with the kind of question.

    Returns:
        `tatqa_em`, `tatqa_f1` (of words; of questions of kind arithmetic and count the same as `tatqa_em`), and
        `scale_right`.
    """
    text, kind = reference, ""
    if reference.startswith('{"answer": '):
        told = json.loads(reference)
        text, kind = told["answer"], str(told.get("kind"))
    (given, its_scale), (wanted, scale) = (_parts(part, metric.separator) for part in (answer, text))
    said = [_joined(given, its_scale)]
    if len(given) == 1 and not its_scale and "%" not in given[0] and _is_number(given[0]):
        said.append(_four(_value(given[0])))  # a share without a scale: 0.2342 for 23.42 percent
    exact, f1 = max(_scores(one, _joined(wanted, scale)) for one in said) if given else (0.0, 0.0)
    return {
        "tatqa_em": exact,
        "tatqa_f1": exact if kind in ("arithmetic", "count") else f1,
        "scale_right": float(its_scale == scale),
    }


def _parts(text: str, separator: str) -> tuple[list[str], str]:
    """Spans and scale."""
    spans, scale = [], ""
    for line in filter(None, map(str.strip, text.splitlines())):
        name, found, rest = line.partition(separator.strip() or separator)
        if found and name.strip().lower() == "scale":
            scale = rest.strip().lower()
        else:
            spans.append(line)
    return spans, "" if scale == "none" else scale


def _joined(spans: list[str], scale: str) -> str:
    """All spans in one text, numbers to four decimals with the scale in them, words with the scale behind them."""
    parts = []
    for span in sorted(spans):
        value = _value(span) if _is_number(span) else None
        if value is None:
            parts.append(f"{span} {scale}" if scale else span)
        else:
            parts.append(_four(value if "%" in span else round(value, 2) * _scale_in(scale)))
    return " ".join(parts)


def _scores(said: str, wanted: str) -> tuple[float, float]:
    """Exact match, and F1 of the sets of words, to two decimals."""
    one, other = _normal(said), _normal(wanted)
    words, right = set(one.split()), set(other.split())
    both = len(words & right)
    precision, recall = both / len(words) if words else 1.0, both / len(right) if right else 1.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return float(one == other), round(f1, 2)


def _normal(text: str) -> str:
    words = []
    for word in text.lower().split(" "):
        plain = str(_value(word)) if _is_number(word) else word.translate(_PUNCTUATION)
        words += re.sub(r"\b(?:a|an|the)\b", " ", plain).split()
    return " ".join(words)


def _is_number(text: str) -> bool:
    """A number, alone or before the word of a scale."""
    words = " ".join(word.translate(_NO_NUMERAL) for word in text.split()).split()
    return bool(words and _FLOAT.fullmatch(words[0])) and (len(words) == 1 or _scale_in(words[1]) != 1)


def _value(text: str) -> float | None:
    """`(134)` is -134, `12%` is 0.12, `1 million` is 1,000,000; None without a number."""
    found = _NUMERAL.search(text.translate(_NO_NUMERAL))
    if not found or found[0].lstrip("+-").startswith("."):
        return None
    number = float(found[0]) if "." in found[0] else int(found[0])
    unit = re.search(r"[\d.]{1,60}\s?[a-zA-Z]{1,60}", text)
    sign = -1 if re.search(r"\([\d.\s]{1,60}\)", text) else 1
    share = 0.01 if re.search(r"[\d.\s]%", text) else 1
    return round(number * (_scale_in(unit[0]) if unit else 1) * sign * share, 4)


def _scale_in(text: str) -> float:
    return next((value for name, value in SCALES.items() if name in text.lower()), 1)


def _four(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
