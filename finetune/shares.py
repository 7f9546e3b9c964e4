"""Which items of which part of a mixture make which step: functions of weights, sizes, seed and step, without state."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction

from finetune.schedule import batch_indices, order_of_epoch


def shares(weights: Sequence[float]) -> list[Fraction]:
    """Each weight's part of their sum, exactly."""
    whole = sum(map(Fraction, weights))
    return [Fraction(weight) / whole for weight in weights]


def allotment(weights: Sequence[float], items: int) -> list[int]:
    """How many of the first `items` items fall to each part: item k goes to the part that is owed it most.

    Sainte-Lague's method: part p's i-th item (from 0) is due at (i + 1/2) / share, and items go out in the order in which
    they are due; of equals the part named first. So a part is never more than about one item off share x items, however
    many those are, and a longer run only adds to a shorter one.
    """
    part = shares(weights)
    # Up to time t the parts are due at most t + len(part) / 2 items in all, so all of these are among the first `items`.
    early = max(0, items - len(part))
    given = [math.floor(share * early + Fraction(1, 2)) for share in part] if early else [0] * len(part)
    due = [
        ((count + Fraction(1, 2)) / share, index) for index, (count, share) in enumerate(zip(given, part, strict=True))
    ]
    heapq.heapify(due)
    for _ in range(items - sum(given)):
        _, index = due[0]
        given[index] += 1
        heapq.heapreplace(due, ((given[index] + Fraction(1, 2)) / part[index], index))
    return given


def mixed_indices(
    seed: int, step: int, sizes: Sequence[int], weights: Sequence[float], global_batch: int
) -> list[list[int]]:
    """Of each part, which of its items make step `step` (from 0).

    Every part goes through permutations of its own, epoch after epoch, and its next epoch may begin within a batch. A
    part alone is a run of its stage: there the last batch of an epoch is short (see `schedule.batch_indices`).
    """
    if len(sizes) == 1:
        return [batch_indices(seed, step, sizes[0], global_batch)]
    before, after = (allotment(weights, global_batch * n) for n in (step, step + 1))
    found = []
    for number, (first, end, size) in enumerate(zip(before, after, sizes, strict=True)):
        places = [divmod(place, size) for place in range(first, end)]
        found.append([int(order_of_epoch(seed + number, epoch, size)[position]) for epoch, position in places])
    return found


def epoch_items(sizes: Sequence[int], weights: Sequence[float]) -> int:
    """Items of all parts together while the first part goes through its rows once: an epoch of the mixture."""
    return math.ceil(sizes[0] / shares(weights)[0])
