"""What the audit is made from, and what it says: plain values without any work in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.data.chat import Example
from finetune.data.screen import Finding
from finetune.data.tokentext import TokenText


@dataclass(frozen=True)
class AuditSource:
    """One source: what the recipe and its files say of it, and its samples.

    Attributes:
        name: as the recipe names it (path, glob or hub id).
        rows: records read.
        examples: encoded training samples, not packed. May be a generator: they are read once and not kept.
        held_out: encoded held-out samples, the same way.
        format: the data template or the format of its conversations, detected or declared.
        notes: what was said while reading: encoding detected, columns renamed.
    """

    name: str
    rows: int
    examples: Iterable[Example]
    held_out: Iterable[Example] = ()
    format: str = ""
    licence: str | None = None
    provenance: str | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Faults:
    """What did not pass between the rows and the samples.

    Attributes:
        dropped: (`file:line`, reason) of rows left out by a policy, those dropped by screening excepted.
        problems: what would stop a run, one line each.
        findings: of screening; rows with the action `dropped` count as dropped, `refused` fails the audit.
        counts: of screening: findings by kind, a zero for a kind that was looked for and not found.
        source_of: `file:line` of rows to the index of their source, for the dropped rows by source.
    """

    dropped: Iterable[tuple[str, str]] = ()
    problems: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    source_of: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is audited, and by what measure.

    Attributes:
        name: the recipe's.
        tokenizer: the base model's.
        max_length: most tokens of a sample.
        stop_ids: tokens that may end a trained turn; empty where turns need no end (plain text): then not checked.
        splits: samples by use before encoding, as {"train": 2400, "eval": 200}.
        hashes: what the numbers hold for: files, templates, tokenizer, by name.
        notes: further lines for the page (packing, cache).
    """

    name: str
    tokenizer: Any
    max_length: int
    stop_ids: frozenset[int]
    splits: Mapping[str, int]
    hashes: Mapping[str, str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class SourceCounts:
    """One source in numbers: `tokens` and `trained` are those of its training samples, `dropped` rows by reason."""

    name: str
    format: str
    licence: str | None
    provenance: str | None
    notes: tuple[str, ...]
    rows: int
    samples: int
    held_out: int
    tokens: int
    trained: int
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Lengths:
    """Tokens a sample, over training and held-out samples; `bins[i]` counts lengths of i * width to (i + 1) * width - 1.

    Percentiles are nearest-rank: the least length that so many of the samples do not exceed.
    """

    samples: int
    minimum: int
    median: int
    mean: float
    p90: int
    p99: int
    maximum: int
    width: int
    bins: tuple[int, ...]


@dataclass(frozen=True)
class LongRow:
    """One of the longest samples."""

    where: str
    tokens: int
    trained: int


@dataclass(frozen=True)
class Dropped:
    """One row left out; `kind` is its reason without the numbers and values that differ from row to row."""

    where: str
    reason: str
    kind: str


@dataclass(frozen=True)
class Shown:
    """One training sample written out, with its lineage; of a long one `left_out` tokens between `head` and `tail`."""

    where: str
    source: str
    format: str
    sha256: str
    tokens: int
    trained: int
    head: tuple[TokenText, ...]
    left_out: int
    tail: tuple[TokenText, ...]


@dataclass(frozen=True)
class Audit:
    """Everything that is known of the data.

    Attributes:
        reasons: why the data is not fit for a run; empty where it is.
        lengths: None without samples.
        turns: trained turns, over training and held-out samples.
        untrained, unstopped, too_long: `file:line` of samples without a trained token, with a trained turn that does
            not end in a stop token, longer than `max_length`.
        turn_ends: the stop tokens that trained turns end in, with the number of turns, the most frequent first; None
            where turns need none, then `unstopped` was not checked.
        hidden: training samples never shown because personal data or secrets were found in their rows.
    """

    name: str
    reasons: tuple[str, ...]
    max_length: int
    splits: dict[str, int]
    sources: tuple[SourceCounts, ...]
    lengths: Lengths | None
    longest: tuple[LongRow, ...]
    turns: int
    untrained: tuple[str, ...]
    unstopped: tuple[str, ...]
    too_long: tuple[str, ...]
    turn_ends: dict[str, int] | None
    dropped: tuple[Dropped, ...]
    problems: tuple[str, ...]
    findings: tuple[Finding, ...]
    counts: dict[str, dict[str, int]]
    shown: tuple[Shown, ...]
    hidden: int
    hashes: dict[str, str]
    notes: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether CI should stop here."""
        return bool(self.reasons)
