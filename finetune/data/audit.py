"""The audit: what became of every row, in numbers that a person and a CI job can read. Its page is audit_page.py."""

from __future__ import annotations

import hashlib
import heapq
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, count, pairwise

from finetune.data.audit_types import (
    Audit,
    AuditSource,
    Dropped,
    Faults,
    Lengths,
    LongRow,
    Shown,
    SourceCounts,
    Subject,
)
from finetune.data.chat import IGNORED, Example
from finetune.data.personal import PERSONAL, SECRETS, redact_text
from finetune.data.screen import KINDS, SETTING, Finding
from finetune.data.tokentext import TokenReader

LONGEST = 10  # rows in the list of the longest
BINS = 40  # most bars of the histogram
SHOWN = 24  # samples written out token by token, over all sources
SHOWN_PER_SOURCE = 4
SHOWN_TOKENS = 6000  # tokens of all of them together; a longer sample loses its middle

# The settings of data.screen under the headings of the audit.
GROUPS = {
    "duplicates": ("exact_duplicates", "near_duplicates"),
    "leaks": ("train_eval_overlap", "benchmark_overlap"),
    "personal_data": ("personal_data",),
    "secrets": ("secrets",),
}
_PRIVATE = PERSONAL | SECRETS
_hide = partial(redact_text, kinds=_PRIVATE)
_VARIES = re.compile(r"'[^']*'|\"[^\"]*\"|[-+]?\d[\d,.:/]*")  # quoted values and numbers in a reason


def collect(subject: Subject, sources: Sequence[AuditSource], faults: Faults) -> Audit:
    """Reads every example of every source once; memory holds only numbers, faults and the samples to show.

    Personal data and secrets that a reason or a problem quotes are replaced by their labels.

    Raises:
        RecipeError: python-stdnum, which finds personal data, is not installed.
    """
    reported = [item for item in faults.findings if item.kind in _PRIVATE and item.action in ("reported", "refused")]
    tally = _Tally(subject.max_length, subject.stop_ids, {item.where for item in reported})
    per_source = max(1, min(SHOWN_PER_SOURCE, SHOWN // max(1, len(sources))))
    counted, chosen, hidden = [], [], 0
    dropped = tuple(_dropped(faults))
    for index, source in enumerate(sources):
        train, held_out = Counter[str](), Counter[str]()
        some = heapq.nsmallest(per_source, tally.read(source.examples, train), key=tally.order)
        for _ in tally.read(source.held_out, held_out):
            pass
        lost = Counter(item.kind for item in dropped if faults.source_of.get(item.where) == index)
        counted.append(_source_counts(source, train, held_out, lost))
        chosen += [(source, example) for example in some]
        hidden += train["hidden"]
    problems = tuple(_hide(problem) for problem in faults.problems)
    return Audit(
        name=subject.name,
        reasons=tuple(_reasons(counted, tally, problems, faults.findings)),
        max_length=subject.max_length,
        splits=dict(subject.splits),
        sources=tuple(counted),
        lengths=_lengths(tally.lengths),
        longest=tuple(LongRow(where, tokens, trained) for tokens, _, where, trained in sorted(tally.longest)[::-1]),
        turns=tally.ends.total(),
        untrained=tuple(tally.untrained),
        unstopped=tuple(tally.unstopped),
        too_long=tuple(tally.too_long),
        turn_ends=_turn_ends(subject, tally.ends) if subject.stop_ids else None,
        dropped=dropped,
        problems=problems,
        findings=tuple(replace(item, detail=_hide(item.detail)) for item in faults.findings),
        counts=_counts(faults),
        shown=tuple(_shown(subject, chosen[:SHOWN])),
        hidden=hidden,
        hashes=dict(subject.hashes),
        notes=tuple(subject.notes),
    )


class _Tally:
    """Sums and lists over all samples of all sources."""

    def __init__(self, max_length: int, stop_ids: frozenset[int], private: set[str]) -> None:
        self.lengths: Counter[int] = Counter()
        self.longest: list[tuple[int, int, str, int]] = []  # (tokens, -order, where, trained), a heap
        self.ends: Counter[int] = Counter()  # last token of a trained turn -> turns
        self.untrained: list[str] = []
        self.unstopped: list[str] = []
        self.too_long: list[str] = []
        self._samples, self._faulty = 0, set[str]()
        self._max_length, self._stop_ids, self._private = max_length, stop_ids, private

    def read(self, examples: Iterable[Example], totals: Counter[str]) -> Iterator[Example]:
        """Counts the examples; yields those that may be shown."""
        for example in examples:
            length = len(example.ids)
            trained = length - example.labels.count(IGNORED)
            totals.update(samples=1, tokens=length, trained=trained)
            self._check(example, length, trained)
            if example.where in self._private:
                totals["hidden"] += 1
            else:
                yield example

    def order(self, example: Example) -> tuple[bool, str]:
        """Faulty samples before the others, then by hash: what is shown does not change when rows move."""
        return example.where not in self._faulty, _digest(example)

    def _check(self, example: Example, length: int, trained: int) -> None:
        self.lengths[length] += 1
        self._samples += 1
        entry = (length, -self._samples, example.where, trained)  # of equals the first stays
        if len(self.longest) < LONGEST:
            heapq.heappush(self.longest, entry)
        else:
            heapq.heappushpop(self.longest, entry)
        ends = [a for a, b in pairwise((*example.labels, IGNORED)) if b == IGNORED != a]  # last token of each turn
        self.ends.update(ends)
        unstopped = bool(self._stop_ids) and not self._stop_ids.issuperset(ends)
        if unstopped or not trained:  # never both: without a trained token there is no turn
            (self.unstopped if unstopped else self.untrained).append(example.where)
            self._faulty.add(example.where)
        if length > self._max_length:
            self.too_long.append(example.where)


def _source_counts(
    source: AuditSource, train: Counter[str], held_out: Counter[str], lost: Counter[str]
) -> SourceCounts:
    return SourceCounts(
        name=source.name,
        format=source.format,
        licence=source.licence,
        provenance=source.provenance,
        notes=tuple(source.notes),
        rows=source.rows,
        samples=train["samples"],
        held_out=held_out["samples"],
        tokens=train["tokens"],
        trained=train["trained"],
        dropped=dict(lost.most_common()),
    )


def _reasons(
    sources: Sequence[SourceCounts], tally: _Tally, problems: Sequence[str], findings: Sequence[Finding]
) -> Iterator[str]:
    """Why a run should not start, one line each."""
    if problems:
        yield f"problems that stop a run: {len(problems):,}"
    for setting, number in Counter(SETTING[item.kind] for item in findings if item.action == "refused").items():
        yield f"refused by data.screen.{setting}: {number:,}"
    if not any(source.samples for source in sources):
        yield "no sample to train on"
    for source in sources:
        if source.rows and not source.samples + source.held_out:
            yield f"no sample is left of the {source.rows:,} rows of {source.name}"
    for what, rows in (
        ("samples without a trained token", tally.untrained),
        ("samples with a trained turn that does not end in a stop token", tally.unstopped),
        ("samples longer than data.max_length", tally.too_long),
    ):
        if rows:
            yield f"{what}: {len(rows):,}"


def _turn_ends(subject: Subject, ends: Counter[int]) -> dict[str, int]:
    return {subject.tokenizer.decode([end]): turns for end, turns in ends.most_common() if end in subject.stop_ids}


def _lengths(lengths: Counter[int]) -> Lengths | None:
    if not lengths:
        return None
    ordered = sorted(lengths)
    reached = list(accumulate(lengths[length] for length in ordered))
    samples, longest = reached[-1], ordered[-1]

    def percentile(percent: int) -> int:
        return ordered[bisect_left(reached, -(-percent * samples // 100))]

    width = next(step * 10**k for k in count() for step in (1, 2, 5) if longest // (step * 10**k) < BINS)
    bins = [0] * (longest // width + 1)
    for length, number in lengths.items():
        bins[length // width] += number
    mean = round(sum(length * number for length, number in lengths.items()) / samples, 1)
    return Lengths(
        samples, ordered[0], percentile(50), mean, percentile(90), percentile(99), longest, width, tuple(bins)
    )


def _dropped(faults: Faults) -> Iterator[Dropped]:
    """Rows left out by a policy, then by screening; a row with several finds counts once, for the first."""
    for where, reason in faults.dropped:
        text = _hide(reason.removeprefix(f"{where}: "))
        yield Dropped(where, text, _VARIES.sub("…", text))
    seen = set()
    for item in faults.findings:
        if item.action == "dropped" and item.where not in seen:
            seen.add(item.where)
            yield Dropped(item.where, _hide(f"{item.kind}: {item.detail}"), item.kind)


def _counts(faults: Faults) -> dict[str, dict[str, int]]:
    """Findings by group and kind; a kind that nobody looked for is not there."""
    found = Counter(item.kind for item in faults.findings)
    return {
        group: {
            kind: faults.counts.get(kind, found[kind])
            for setting in settings
            for kind in KINDS[setting]
            if kind in faults.counts or kind in found
        }
        for group, settings in GROUPS.items()
    }


def _shown(subject: Subject, chosen: Sequence[tuple[AuditSource, Example]]) -> Iterator[Shown]:
    reader = TokenReader(subject.tokenizer, subject.stop_ids)
    most = SHOWN_TOKENS // max(1, len(chosen))
    for source, example in chosen:
        length = len(example.ids)
        cut = length > most
        yield Shown(
            where=example.where,
            source=source.name,
            format=source.format,
            sha256=_digest(example),
            tokens=length,
            trained=length - example.labels.count(IGNORED),
            head=reader.read(example, 0, most // 2 if cut else length),
            left_out=length - 2 * (most // 2) if cut else 0,
            tail=reader.read(example, length - most // 2, length) if cut else (),
        )


def _digest(example: Example) -> str:
    """sha256 over ids and labels."""
    return hashlib.sha256(array("q", (*example.ids, *example.labels)).tobytes()).hexdigest()
