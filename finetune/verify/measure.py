"""Measures on answers: how often they part from those wanted, scores, log-probabilities, speed. Pure functions.

A model served in other arithmetic than it was evaluated in answers some prompts with another word somewhere, and from
there on with another text. So answers are compared by how often they part from the golden ones, for each token that
was still the same, which is about the same number for short answers and for long ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune.evaluate.metrics import Scores, score_rows
from finetune.verify.evidence import Heard
from finetune.verify.golden import Golden
from finetune.verify.wire import Reply

SPARE_FROM = 8  # with so many samples, one of them may differ whatever the limits


@dataclass(frozen=True)
class Drift:
    """How often texts part from those wanted: `parted` of `texts` texts, in `tokens` tokens up to there."""

    parted: int
    texts: int
    tokens: float

    @property
    def rate(self) -> float:
        return self.parted / max(self.tokens, 1.0)

    def over(self, limit: float) -> bool:
        return self.rate > limit and self.parted > (self.texts >= SPARE_FROM)


def drifted(pairs: Iterable[tuple[str, str, int]]) -> Drift:
    """Of (text, wanted, tokens of the wanted). Tokens up to a parting are estimated from characters."""
    parted, texts, tokens = 0, 0, 0.0
    for text, wanted, count in pairs:
        texts += 1
        if text == wanted:
            tokens += count
            continue
        parted += 1
        tokens += 1 + count * _shared(text, wanted) / max(len(wanted), 1)
    return Drift(parted, texts, tokens)


def _shared(text: str, wanted: str) -> int:
    """How many characters two texts have in common from the start."""
    return next((i for i, (a, b) in enumerate(zip(text, wanted, strict=False)) if a != b), min(len(text), len(wanted)))


def logprob_gap(heard: Sequence[Heard]) -> tuple[float, int] | None:
    """Mean absolute difference (nats) of the log-probabilities of tokens while they are the same, and of how many.

    None below eight tokens.
    """
    gaps: list[float] = []
    for item in heard:
        if item.reply is None or not item.reply.logprobs or not item.golden.logprobs:
            continue
        text = ""
        for (token, logprob), wanted in zip(item.reply.logprobs, item.golden.logprobs, strict=False):
            text += token
            if not item.exact and not item.golden.answer.startswith(text.lstrip()):
                break
            gaps.append(abs(logprob - wanted))
    return (sum(gaps) / len(gaps), len(gaps)) if len(gaps) >= 8 else None


def scored(pairs: Sequence[tuple[Golden, str]]) -> tuple[list[Scores], list[Scores]]:
    """The frozen scores and those of the texts."""
    goldens = [golden for golden, _ in pairs]
    now = score_rows([text for _, text in pairs], [g.reference for g in goldens], [g.metric for g in goldens])
    return [golden.scores for golden in goldens], now


def speed(asked: Sequence[Reply | None]) -> dict[str, float]:
    """Medians and 95th percentiles in seconds; tokens a second after the first token, as their median."""
    done = [reply for reply in asked if reply]
    first, whole = sorted(r.first for r in done), sorted(r.seconds for r in done)
    rates = [(r.tokens - 1) / (r.seconds - r.first) for r in done if r.tokens and r.tokens > 1 and r.seconds > r.first]
    rates = rates or [r.tokens / r.seconds for r in done if r.tokens and r.seconds > 0] or [0.0]
    return {
        "first_p50": _at(first, 0.5),
        "first_p95": _at(first, 0.95),
        "seconds_p50": _at(whole, 0.5),
        "seconds_p95": _at(whole, 0.95),
        "tokens_per_second": _at(sorted(rates), 0.5),
    }


def _at(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
