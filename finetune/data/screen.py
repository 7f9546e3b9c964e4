"""Screening: copies, leaks, personal data and secrets in the rows; what is found, where, and what was done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from finetune.data import duplicates
from finetune.data.contamination import Benchmarks
from finetune.data.duplicates import PRINTS, NearIndex, near_text
from finetune.data.personal import PERSONAL, SECRETS, mask, private_in_message, redact_sample
from finetune.data.processes import map_chunks
from finetune.data.rows import Sample
from finetune.data.spool import SampleFile
from finetune.recipe_data import ScreenSection, SourceSection

Action = Literal["dropped", "refused", "reported", "redacted"]
PRINTED = 50  # findings of one setting that an error spells out
ACTIONS: dict[str, Action] = {"drop": "dropped", "error": "refused", "report": "reported", "redact": "redacted"}

# What each setting looks for. A kind whose setting is on is counted even where nothing was found.
KINDS = {
    "exact_duplicates": ("raw_duplicate", "normalised_duplicate"),
    "near_duplicates": ("near_duplicate",),
    "train_eval_overlap": ("raw_overlap", "normalised_overlap", "prompt_overlap", "near_overlap"),
    "benchmark_overlap": ("benchmark_overlap",),
    "personal_data": tuple(sorted(PERSONAL)),
    "secrets": tuple(sorted(SECRETS)),
}
SETTING = {kind: setting for setting, kinds in KINDS.items() for kind in kinds}
_HOW = {
    "raw": "the same text",
    "normalised": "the same but for case, white space, width or zero-width characters",
    "prompt": "the same prompt, another answer",
}


@dataclass(frozen=True)
class Finding:
    """One thing found in one row.

    Attributes:
        kind: a word out of `KINDS`.
        where: `file:line` of the row it is about (a training row, for overlap).
        other: `file:line` of the twin: the row that stays, the held-out row, the benchmark's line; else empty.
        detail: what it is, in words; private finds are masked.
        action: what was done with the row.
    """

    kind: str
    where: str
    other: str
    detail: str
    action: Action

    def __str__(self) -> str:
        return f"{self.where}: {self.kind}: {self.detail}{f' as {self.other}' if self.other else ''}"


@dataclass(frozen=True)
class Screened:
    """What is left of both sets, in their order, and everything that was found."""

    train: SampleFile
    evaluate: SampleFile
    findings: list[Finding]
    counts: dict[str, int]

    def refusals(self) -> list[str]:
        """What `error` refuses: for each setting up to 50 findings, one a line, then their number and what allows them."""
        problems = []
        for setting in KINDS:
            refused = [item for item in self.findings if item.action == "refused" and SETTING[item.kind] == setting]
            if refused:
                problems += [str(finding) for finding in refused[:PRINTED]]
                also = ", `redact` replaces them" if setting in ("personal_data", "secrets") else ""
                more = f" ({len(refused) - PRINTED} more than shown)" if len(refused) > PRINTED else ""
                count = f"data.screen.{setting}: {len(refused)} found{more}"
                problems.append(f"{count}; `drop` leaves such rows out{also}, `report` only counts them")
        return problems

    def report(self) -> list[str]:
        """One line a kind that was looked for: `raw_duplicate: 3 (dropped)`."""
        actions = {finding.kind: finding.action for finding in self.findings}
        return [f"{kind}: {count}" + (f" ({actions[kind]})" if count else "") for kind, count in self.counts.items()]


def refusals(result: Screened, train: SampleFile, evaluate: SampleFile) -> list[str]:
    """What stops a run: findings under `error`, and a set of rows of which nothing is left."""
    problems = result.refusals()
    for name, before, after in (("training", train, result.train), ("held-out", evaluate, result.evaluate)):
        if before and not after:
            kinds = ", ".join(line for line in result.report() if "dropped" in line)
            problems.append(f"data.screen: all {len(before)} {name} rows were dropped; {kinds}")
    return problems


def look(train: SampleFile, evaluate: SampleFile, section: ScreenSection, workers: int = 1) -> Screened:
    """Both sets screened in this order: private data, copies inside a set, overlap of the sets, benchmarks.

    Under `drop`, a row that goes is not looked at by what comes later; of copies the first stays; of overlap the
    held-out row stays. Private data and copies are looked for in both sets, benchmarks in the training rows. What
    `error` refuses is among the findings; the row stays.

    Args:
        workers: processes that look for private data, the slow part.

    Raises:
        DataError: a benchmark file that can't be read.
        RecipeError: a package that a setting needs is missing.
    """
    findings: list[Finding] = []
    kept = [_without_private(samples, section, findings, workers) for samples in (train, evaluate)]
    kept = [_without_copies(samples, section, findings) for samples in kept]
    kept[0] = _without_overlap(kept[0], kept[1], section, findings)
    kept[0] = _without_benchmarks(kept[0], section, findings)
    found = Counter(finding.kind for finding in findings)
    looked_for = (kind for kind, setting in SETTING.items() if _is_on(kind, setting, section))
    return Screened(kept[0], kept[1], findings, {kind: found[kind] for kind in looked_for})


def check_licences(sources: Sequence[SourceSection], require: bool) -> list[str]:
    """One problem for each source without licence or provenance, where `data.require_licence` asks for them."""
    problems = []
    for source in sources if require else ():
        missing = [name for name in ("licence", "provenance") if not (getattr(source, name) or "").strip()]
        if missing:
            problems.append(f"data.require_licence: {source.path or source.hub}: no {' and no '.join(missing)} given")
    return problems


def _is_on(kind: str, setting: str, section: ScreenSection) -> bool:
    if kind == "near_overlap":
        return section.near_duplicates != "off" and section.train_eval_overlap != "off"
    if setting == "benchmark_overlap":
        return bool(section.benchmarks) and section.benchmark_overlap != "off"
    return getattr(section, setting) != "off"


def _without_private(samples: SampleFile, section: ScreenSection, findings: list[Finding], workers: int) -> SampleFile:
    """Samples with private data redacted, or without those that have it; kinds that are off are not touched."""
    policies = {kind: getattr(section, SETTING[kind]) for kind in (*PERSONAL, *SECRETS)}
    policies = {kind: policy for kind, policy in policies.items() if policy != "off"}
    if not policies:
        return samples
    chosen, kept, start = samples.chosen.copy(), np.ones(len(samples), bool), 0
    with closing(map_chunks(samples.blocks(), partial(_private_scan, policies), workers)) as results:
        for part in results:
            for place, here, instead in part.found:
                findings += here
                kept[start + place] = all(finding.action != "dropped" for finding in here)
                if instead is not None:
                    number = int(chosen[start + place])
                    chosen[start + place] = samples.spool.replace(number, instead)
            start += part.samples
    return SampleFile(samples.spool, chosen[kept])


@dataclass(frozen=True)
class _Scanned:
    """Of a chunk: (place in it, what was found, the sample to take instead if it is to be redacted)."""

    samples: int
    found: list[tuple[int, list[Finding], Sample | None]]


def _private_scan(policies: dict[str, str]) -> Callable[[Iterable[Sample]], _Scanned]:
    """Makes the work of one process."""
    return partial(_scan, policies)


def _scan(policies: dict[str, str], samples: Iterable[Sample]) -> _Scanned:
    redacted = {kind for kind, policy in policies.items() if policy == "redact"}
    found: list[tuple[int, list[Finding], Sample | None]] = []
    count = 0
    for count, sample in enumerate(samples, start=1):
        here = []
        for index, message in enumerate(sample.everything_said, start=1):
            for text, match in private_in_message(message):
                if match.kind in policies:
                    note = f" {match.note}" if match.note else ""
                    detail = f"message {index} ({message['role']}):{note} {mask(text[match.start : match.end])}"
                    here.append(Finding(match.kind, sample.where, "", detail, ACTIONS[policies[match.kind]]))
        if here:
            actions = {finding.action for finding in here}
            changed = "redacted" in actions and "dropped" not in actions
            found.append((count - 1, here, redact_sample(sample, redacted) if changed else None))
    return _Scanned(count, found)


def _without_copies(samples: SampleFile, section: ScreenSection, findings: list[Finding]) -> SampleFile:
    exact = set()
    if section.exact_duplicates != "off":
        action = ACTIONS[section.exact_duplicates]
        copies = duplicates.find_copies(samples.facts("raw"), samples.facts("normalised"))
        found = [
            (index, Finding(f"{how}_duplicate", samples[index].where, samples[twin].where, _HOW[how], action))
            for index, twin, how in copies
        ]
        samples = _apply(samples, found, findings)
        exact = set() if action == "dropped" else {index for index, _ in found}
    if section.near_duplicates == "off":
        return samples
    texts = [near_text(sample) for sample in samples]
    near, found = _near_index([texts], section), []
    for index, text in enumerate(texts):
        if index in exact:  # counted already
            continue
        nearest = near.nearest(text)
        if nearest is None:
            near.add(index, text)
        else:
            found.append((index, _near("near_duplicate", samples[index], samples[nearest[0]], nearest[1], section)))
    return _apply(samples, found, findings)


def _without_overlap(
    train: SampleFile, evaluate: SampleFile, section: ScreenSection, findings: list[Finding]
) -> SampleFile:
    if section.train_eval_overlap == "off" or not evaluate:
        return train
    action = ACTIONS[section.train_eval_overlap]
    prints = [{str(how): samples.facts(how) for how in PRINTS} for samples in (train, evaluate)]
    found = [
        (index, Finding(f"{how}_overlap", train[index].where, evaluate[twin].where, _HOW[how], action))
        for index, twin, how in duplicates.find_overlap(*prints)
    ]
    if section.near_duplicates != "off":
        exact = {index for index, _ in found}
        texts = [near_text(sample) for sample in train], [near_text(sample) for sample in evaluate]
        near = _near_index(texts, section)
        for index, text in enumerate(texts[1]):
            near.add(index, text)
        for index, text in enumerate(texts[0]):
            nearest = near.nearest(text) if index not in exact else None
            if nearest is not None:
                twin = evaluate[nearest[0]]
                found.append((index, _near("near_overlap", train[index], twin, nearest[1], section)))
    return _apply(train, sorted(found, key=lambda item: item[0]), findings)


def _without_benchmarks(train: SampleFile, section: ScreenSection, findings: list[Finding]) -> SampleFile:
    if not section.benchmarks or section.benchmark_overlap == "off":
        return train
    benchmarks = Benchmarks(section.benchmarks, section.benchmark_ngram)
    found = []
    for index, sample in enumerate(train):
        hit = benchmarks.find(
            [text for message in sample.everything_said for text in duplicates.message_texts(message) if text]
        )
        if hit is not None:
            action = ACTIONS[section.benchmark_overlap]
            found.append(
                (index, Finding("benchmark_overlap", sample.where, hit[0], f"the same words {hit[1]!r}", action))
            )
    return _apply(train, found, findings)


def _near_index(sets: Sequence[list[str]], section: ScreenSection) -> NearIndex:
    """An empty index that leaves out the boilerplate of all these texts; equal texts count once."""
    different = list(dict.fromkeys(text for texts in sets for text in texts))
    return NearIndex(section.near_duplicate_threshold, duplicates.find_boilerplate(different))


def _near(kind: str, sample: Sample, twin: Sample, jaccard: float, section: ScreenSection) -> Finding:
    action = ACTIONS[getattr(section, SETTING[kind])]
    return Finding(kind, sample.where, twin.where, f"nearly the same text (Jaccard index {jaccard:.2f})", action)


def _apply(samples: SampleFile, found: list[tuple[int, Finding]], findings: list[Finding]) -> SampleFile:
    """Adds what was found to `findings`; the samples without those that are dropped for it."""
    findings += [finding for _, finding in found]
    kept = np.ones(len(samples), bool)
    kept[[index for index, finding in found if finding.action == "dropped"]] = False
    return samples.pick(kept)
