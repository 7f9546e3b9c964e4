"""Whether an answer holds the right short answer. Pure function of text."""

from __future__ import annotations

from finetune.data.metric import Metric
from finetune.evaluate.citations import bare, holds
from finetune.evaluate.normalise import normalised


def contains(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """Metric `contains`: each line of the reference is one wording of the right answer.

    Returns:
        `contained`: 1 where the answer holds one of them, not as a piece of a longer word or number; case, width,
        spaces and punctuation are no difference. What else the answer says does not count, for it or against it.
    """
    said = bare(normalised(answer, metric.normalise))
    wordings = (bare(normalised(line, metric.normalise)) for line in reference.splitlines())
    return {"contained": float(any(wording and holds(said, wording) for wording in wordings))}
