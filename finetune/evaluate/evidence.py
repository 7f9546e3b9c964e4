"""Whether a figure that somebody claims stands among those of a passage. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from finetune.evaluate.dates import Moment
from finetune.evaluate.figures import Figure

ROUNDED_FROM = 2  # digits that a number needs to count as another one rounded


def stands(claim: Figure, pool: Iterable[Figure], scales: Sequence[int], any_scale: bool = False) -> bool:
    """Whether the claim is one of the figures of the pool.

    Args:
        scales: powers of ten that a bare number may be meant in.
        any_scale: a bare number may be meant in the scale of whatever figure has its digits (860 in that of 860万元).
    """
    if claim.moment is not None:
        return _moment_stands(claim, claim.moment, [*pool])
    if claim.value is None:
        return any(one.text == claim.text for one in pool)
    meant = readings(claim, scales)
    for one in pool:
        if one.moment is not None and _part_of(claim, one.moment):
            return True
        if one.value is None or not _same_side(claim, one):
            continue
        there = readings(one, scales)
        if any_scale and not claim.scaled and one.power:
            there.append((there[0][0].scaleb(-one.power), there[0][1].scaleb(-one.power)))
        if any(_same(mine, its, claim.digits) for mine in meant for its in there):
            return True
    return False


def readings(figure: Figure, scales: Sequence[int]) -> list[tuple[Decimal, Decimal]]:
    """The values that a figure may mean, without sign, each with its step."""
    value, step = abs(figure.value or Decimal(0)), figure.step
    found = [(value, step)]
    if figure.percent:
        power = -2 if figure.percent == 1 else -3
        found.append((value.scaleb(power), step.scaleb(power)))
    elif not figure.scaled:
        found += [(value.scaleb(power), step.scaleb(power)) for power in scales]
    return found


def _same(claim: tuple[Decimal, Decimal], other: tuple[Decimal, Decimal], digits: int) -> bool:
    if claim[0] == other[0]:
        return True
    return digits >= ROUNDED_FROM and other[1] < claim[1] and abs(claim[0] - other[0]) * 2 <= claim[1]


def _same_side(claim: Figure, other: Figure) -> bool:
    """The same sign, or a word that makes up for it."""
    below = [one.value is not None and one.value < 0 for one in (claim, other)]
    return below[0] == below[1] or claim.falling or other.falling


def _part_of(claim: Figure, moment: Moment) -> bool:
    """A year alone; a day, month or hour where the claim's unit or field says that it is one."""
    if claim.value is None or claim.step != 1 or claim.value < 0:
        return False
    if claim.value == moment.year:
        return True
    hour = moment.time[0] if moment.time else None
    clock = claim.of_a_clock or claim.name.lower() in ("month", "day", "hour", "minute", "月", "日", "时", "分")
    return clock and claim.value in (moment.month, moment.day, hour, moment.time and moment.time[1])


def _moment_stands(claim: Figure, moment: Moment, pool: Sequence[Figure]) -> bool:
    """All that the claim says is said by one date of the pool, or by one time; its year may stand elsewhere, alone."""
    plain = {one.value for one in pool if one.value is not None}
    if moment.time is not None:
        times = {one.moment.time for one in pool if one.moment is not None}
        digits = "".join(mark for mark in claim.text if mark.isdecimal())
        whole_hour = moment.time[1:] == (0, 0)
        return moment.time in times or (
            whole_hour and ":" not in claim.text and bool(digits) and Decimal(digits) in plain
        )
    years = {one.moment.year for one in pool if one.moment is not None} | plain
    if moment.month is None:
        return moment.year in years
    return any(
        one.moment.month == moment.month
        and moment.day in (None, one.moment.day)
        and (moment.year in (None, one.moment.year) or (one.moment.year is None and moment.year in plain))
        for one in pool
        if one.moment is not None
    )
