"""Some of the prepared rows: a few for a run that is to take seconds, or so many spread over all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from finetune.data.prepare import Prepared
from finetune.data.spool import SampleFile

CONSIDERED, LONG = 256, 4000  # samples that are looked at; characters of one that the others go before


def evenly(count: int, most: int | None) -> np.ndarray:
    """(at most `most`,) of so many places, spread over all, so that every group of sorted rows stays in."""
    if most is None or most >= count:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def few(data: Prepared, rows: int) -> Prepared:
    """The first `rows` samples to train on and a quarter as many (two at least) held out.

    Of labelled ones as many good as bad, where there are; long ones only where the short ones are too few, and of a long
    text its beginning.
    """
    train = _cut(data.train.pick(_first(data.train, rows)))
    evaluate = _cut(data.evaluate.pick(_first(data.evaluate, max(2, rows // 4))))
    note = f"cut to {len(train)} of {len(data.train)} samples to train on, {len(evaluate)} of {len(data.evaluate)} held out"
    return replace(data, train=train, evaluate=evaluate, notes=[*data.notes, note])


def _first(samples: SampleFile, rows: int) -> np.ndarray:
    """(at most rows,) their places, in order."""
    some = samples[:CONSIDERED]
    turns: Counter[Any] = Counter()
    ranked = []
    for place, sample in enumerate(some):
        long = sum(len(str(message.get("content", ""))) for message in sample.everything_said) > LONG
        kind = (long, sample.marks[:1])
        turns[kind] += 1
        ranked.append((long, turns[kind], place))
    return np.sort(np.array([place for *_, place in sorted(ranked)[:rows]], dtype=int))


def _cut(samples: SampleFile) -> SampleFile:
    """Plain texts at most LONG characters long; anything else as it is."""
    some = list(samples)
    texts = [sample.messages[0] for sample in some if sample.messages[0]["role"] == "text"]
    if not any(len(str(message["content"])) > LONG for message in texts):
        return samples
    return SampleFile.of(
        replace(sample, messages=({**message, "content": str(message["content"])[:LONG]},))
        for sample, message in zip(some, texts, strict=True)
    )
