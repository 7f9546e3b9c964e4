"""Logs to rows: read, judged, screened, made; every row of the logs is used or left out with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from finetune.data.rows import Row
from finetune.errors import DataError
from finetune.feedback.entry import Entry, entries_of
from finetune.feedback.exchange import Exchange, join, read_exchange
from finetune.feedback.known import known_rows, without_known
from finetune.feedback.log import LeftOut, Log, read_logs
from finetune.feedback.rating import Scale, scale_of, unknown
from finetune.feedback.reasons import REASONS
from finetune.feedback.rows import Made, judge, make_rows
from finetune.feedback.screening import held_out_prompts, without_held_out, without_near, without_private
from finetune.feedback.settings import Settings

PRINTED = 50  # problems that are spelled out


@dataclass(frozen=True)
class Imported:
    """What logs came to.

    Attributes:
        joined: lines that went into others: a batch's requests, judgements on lines of their own.
        raters: people who judged, in the order they first appear, as logged; no file names them.
        held_out: different prompts that the recipe holds out.
    """

    log: Log
    settings: Settings
    scale: Scale
    made: list[Made]
    left_out: list[LeftOut]
    joined: int
    raters: tuple[str, ...]
    held_out: int

    @property
    def used(self) -> int:
        """Judged answers that are in some row."""
        return len({id(entry) for item in self.made for entry in item.entries})

    @property
    def lines(self) -> int:
        return sum(file.lines for file in self.log.files)

    def reasons(self) -> dict[str, int]:
        """How many rows were left out, by reason, in the order of REASONS."""
        counts = Counter(item.reason for item in self.left_out)
        return {reason: counts[reason] for reason in REASONS if counts[reason]}


def import_logs(names: Sequence[str], settings: Settings) -> Imported:
    """The rows that these logs give.

    Raises:
        DataError: files that can't be read; lines that are no log lines and ratings that are none, all of them; what
            screening refuses; logs of which nothing can be used.
        RecipeError: of the recipe whose held-out prompts are to be kept out, and of earlier imports.
    """
    held_out = held_out_prompts(settings.recipe) if settings.recipe else {}
    known = known_rows(settings.known)
    log = read_logs(names)
    left_out: list[LeftOut] = []
    entries, problems, joined = _entries(log, left_out)
    try:
        scale = scale_of((entry.about["rating"] for entry in entries), settings.good, settings.bad)
    except DataError as error:
        raise DataError([*_shown(problems, settings), *error.problems]) from None
    entries = _judged(entries, scale, problems)
    if told := _shown(problems, settings):
        raise DataError(told)
    left_out += problems
    raters = tuple(dict.fromkeys(entry.about["by"] for entry in entries if entry.about["by"] is not None))
    entries = judge(entries, settings.least_correction, left_out)
    entries = without_private(entries, settings, left_out)
    entries = without_held_out(entries, held_out, left_out)
    entries = without_known(entries, known, left_out)
    made, last = _made(entries, settings, left_out)
    left_out += last
    result = Imported(log, settings, scale, made, left_out, joined, raters, len(held_out))
    if not made:
        why = ", ".join(f"{reason}: {count}" for reason, count in result.reasons().items())
        raise DataError(f"{', '.join(file.name for file in log.files)}: nothing to train on; left out are {why}")
    return result


def _entries(log: Log, left_out: list[LeftOut]) -> tuple[list[Entry], list[LeftOut], int]:
    """Judged answers, lines that are no log lines, and the number of lines that went into others."""
    broken = list(log.broken)
    exchanges: list[Exchange] = []
    for row in log.rows:
        problems: list[str] = []
        exchange = read_exchange(row, problems)
        if problems:
            broken.append(_malformed(row, problems))
        else:
            exchanges.append(exchange)
    answers, joined = join(exchanges, left_out)
    entries: list[Entry] = []
    for exchange in answers:
        problems = []
        its_left_out: list[LeftOut] = []
        found = entries_of(exchange, its_left_out, problems)
        if problems:
            broken.append(_malformed(exchange.row, problems))
        else:
            left_out += its_left_out
            entries += found
    return entries, broken, joined


def _malformed(row: Row, problems: Sequence[str]) -> LeftOut:
    return LeftOut(row.where, "malformed", f"{row.where}: {'; '.join(problems)}")


def _judged(entries: Sequence[Entry], scale: Scale, problems: list[LeftOut]) -> list[Entry]:
    """Entries with their verdicts; a rating that is none is a problem."""
    judged = []
    for entry in entries:
        verdict = scale.verdict(entry.about["rating"])
        if verdict is None:
            problems.append(entry.left_out("malformed", f"{entry.where}: {unknown(entry.about['rating'])}"))
        else:
            judged.append(replace(entry, verdict=verdict))
    return judged


def _made(entries: list[Entry], settings: Settings, left_out: list[LeftOut]) -> tuple[list[Made], list[LeftOut]]:
    """The rows, and what was left out on the way to them."""
    last: list[LeftOut] = []
    made = make_rows(entries, last)
    if settings.near_duplicates is None:
        return made, last
    far = without_near(entries, made, settings.near_duplicates, left_out)
    last = []
    return make_rows(far, last), last


def _shown(problems: Sequence[LeftOut], settings: Settings) -> list[str]:
    """What to stop for; nothing where such lines are to be left out."""
    if settings.broken == "drop":
        return []
    more = len(problems) - PRINTED
    return [*(item.detail for item in problems[:PRINTED]), *([f"... and {more:,} more problems"] if more > 0 else [])]
