"""Scores of questions of which some have no answer: refused where they should be, answered elsewhere. Pure functions."""

from __future__ import annotations

from finetune.data.metric import Metric
from finetune.evaluate.citations import bare, holds
from finetune.evaluate.normalise import normalised


def unanswerable(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """Whether it was refused, and what was answered.

    A reference that is one of `refusals` (but for case, width, spaces and punctuation) asks for a refusal; an answer that
    contains one of them refuses; an answer without a word does neither.

    Returns:
        `all_right`: refused where it should be, the right answer elsewhere.
        Of references that refuse: `refused_right` (1 minus the rate of made-up answers).
        Of references that answer: `answered` (not refused; 1 minus the rate of wrong refusals) and `answered_right` (and
        the answer contains the reference's text, not as a piece of a longer word or number).
    """
    said, wanted = _bare(answer, metric), _bare(reference, metric)
    refusals = [_bare(text, metric) for text in metric.refusals]
    refused = any(holds(said, refusal) for refusal in refusals)
    if wanted in refusals:
        return {"all_right": float(refused), "refused_right": float(refused)}
    answered = bool(said) and not refused
    right = float(answered and holds(said, wanted))
    return {"all_right": right, "answered": float(answered), "answered_right": right}


def _bare(text: str, metric: Metric) -> str:
    return bare(normalised(text, metric.normalise))
