"""Held-out rows before and after: which to show, and what in each answer is as the reference has it."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.data.few import evenly
from finetune.report.words import Said

SHOWN = 20
WIDE = 1000  # characters of an answer or a question on the page
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # each character is a word
WORDS = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[^\W_])+|\s+|.", re.DOTALL)
Mark = Literal["", "right", "wrong", "lacking"]
Pieces = list[tuple[Mark, str]]
# What became of a row: its answers against the reference, to the letter but for the ends.
BECAME = {
    "lost": Said("was the reference, is not any more", "原与参考一致，现不一致"),
    "won": Said("became the reference", "变为与参考一致"),
    "other": Said("neither is the reference", "前后均与参考不同"),
    "kept": Said("both are the reference", "前后均与参考一致"),
}


@dataclass(frozen=True)
class Sample:
    """One row: where it stands, of which suite or part, what was asked, what became of it.

    Attributes:
        reference, base, tuned: pieces of text with their marks: `right` is in the reference and was not in the base's
            answer, `wrong` is not in the reference, `lacking` is in the reference and not in the tuned model's answer.
    """

    where: str
    of: str
    became: str
    prompt: str
    reference: Pieces
    base: Pieces
    tuned: Pieces
    cut: bool


@dataclass(frozen=True)
class Samples:
    """Those to show, and how many of all rows became what."""

    shown: list[Sample]
    counts: dict[str, int]
    rows: int


def samples_of(folder: Path, clean: Callable[[str], str], shown: int = SHOWN) -> Samples:
    """Of all answers in a run's folder, those of its own rows first.

    Args:
        clean: takes out of a text what must not be seen.
    """
    counts: Counter[str] = Counter()
    groups: dict[str, list[tuple[str, dict[str, Any], dict[str, Any]]]] = {name: [] for name in BECAME}
    for of, base, tuned in _pairs(folder):
        became = _became(base, tuned)
        counts[became] += 1
        groups[became].append((of, base, tuned))
    kept = _in_turn([[rows[place] for place in evenly(len(rows), shown)] for rows in groups.values()], shown)
    order = list(BECAME)
    kept.sort(key=lambda row: order.index(_became(row[1], row[2])))
    found = [_sample(of, base, tuned, clean) for of, base, tuned in kept]
    return Samples(found, {name: counts[name] for name in BECAME}, sum(counts.values()))


def _pairs(folder: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(suite or part, base's line, tuned's line) of rows that both models answered."""
    files = sorted(
        folder.glob("answers*.tuned.jsonl"), key=lambda file: (file.name != "answers.tuned.jsonl", file.name)
    )
    for file in files:
        of = file.name.removeprefix("answers").removesuffix("tuned.jsonl").strip(".")
        other = file.with_name(file.name.replace(".tuned.", ".base."))
        if not other.is_file():
            continue
        for base, tuned in zip(_lines(other), _lines(file), strict=False):
            if base["where"] == tuned["where"]:
                yield of, base, tuned


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8", errors="replace") as stream:
        for text in stream:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and {"where", "answer", "reference", "prompt"} <= line.keys():
                yield line


def _became(base: dict[str, Any], tuned: dict[str, Any]) -> str:
    before, after = (str(one["answer"]).strip() == str(one["reference"]).strip() for one in (base, tuned))
    return {(True, False): "lost", (False, True): "won", (True, True): "kept"}.get((before, after), "other")


def _in_turn(groups: Sequence[list[Any]], most: int) -> list[Any]:
    """One of each group in turn, until there are so many or none is left."""
    found = []
    for place in range(max(map(len, groups), default=0)):
        found += [group[place] for group in groups if place < len(group)]
    return found[:most]


def _sample(of: str, base: dict[str, Any], tuned: dict[str, Any], clean: Callable[[str], str]) -> Sample:
    texts = [str(tuned["reference"]), str(base["answer"]), str(tuned["answer"])]
    reference, before, after = marks(*(clean(text[:WIDE]) for text in texts))
    return Sample(
        where=Path(str(tuned["where"])).name,
        of=of,
        became=_became(base, tuned),
        prompt=_asked(tuned["prompt"], clean),
        reference=reference,
        base=before,
        tuned=after,
        cut=any(len(text) > WIDE for text in texts),
    )


def _asked(prompt: Sequence[dict[str, Any]], clean: Callable[[str], str]) -> str:
    """What the user said last, cut short."""
    turns = [message for message in prompt if message.get("role") == "user"] or list(prompt)
    said = turns[-1].get("content") if turns else ""
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return clean(text[:WIDE]) + ("…" if len(text) > WIDE else "")


def marks(reference: str, base: str, tuned: str) -> tuple[Pieces, Pieces, Pieces]:
    """Reference, base's and tuned's text in pieces with their marks; see Sample. The pieces of a text make it up."""
    wanted, before, after = (WORDS.findall(text) for text in (reference, base, tuned))
    in_base, of_base = _shared(wanted, before)
    in_tuned, of_tuned = _shared(wanted, after)
    theirs: list[Mark] = ["wrong" if twin is None else "" for twin in of_base]
    ours: list[Mark] = ["wrong"] * len(after)
    for place, twin in enumerate(of_tuned):
        if twin is not None:
            ours[place] = "" if in_base[twin] else "right"
    missed: list[Mark] = ["" if there else "lacking" for there in in_tuned]
    if not wanted:  # nothing to be right or wrong by
        theirs, ours = [""] * len(before), [""] * len(after)
    return _joined(wanted, missed), _joined(before, theirs), _joined(after, ours)


def _shared(wanted: list[str], said: list[str]) -> tuple[list[bool], list[int | None]]:
    """Which words of the reference an answer has, and which word of the reference each word of the answer is."""
    there = [False] * len(wanted)
    twin: list[int | None] = [None] * len(said)
    for start, other, size in _blocks(wanted, said):
        for offset in range(size):
            there[start + offset] = True
            twin[other + offset] = start + offset
    return there, twin


def _blocks(wanted: list[str], said: list[str]) -> Iterator[tuple[int, int, int]]:
    """(place in the reference, place in the answer, words) of what both have.

    Their common beginning and end are taken first; between them, difflib leaves out words that fill over 1 % of a long
    answer as places to begin at. Without that, an answer that repeats itself to the limit would take a second.
    """
    shorter = min(len(wanted), len(said))
    head = next((place for place in range(shorter) if wanted[place] != said[place]), shorter)
    rest = shorter - head
    tail = next((place for place in range(rest) if wanted[-1 - place] != said[-1 - place]), rest)
    inner = wanted[head : len(wanted) - tail], said[head : len(said) - tail]
    yield 0, 0, head
    for block in difflib.SequenceMatcher(None, *inner).get_matching_blocks():
        yield block.a + head, block.b + head, block.size
    yield len(wanted) - tail, len(said) - tail, tail


def _joined(words: Sequence[str], its: Sequence[Mark]) -> Pieces:
    """Neighbours with the same mark as one piece; white space has the mark that both its neighbours have, or none."""
    pieces: Pieces = []
    for place, (word, mark) in enumerate(zip(words, its, strict=True)):
        if word.isspace():
            around = {its[near] for near in (place - 1, place + 1) if 0 <= near < len(its)}
            mark = around.pop() if len(around) == 1 else ""
        if pieces and pieces[-1][0] == mark:
            pieces[-1] = (mark, pieces[-1][1] + word)
        else:
            pieces.append((mark, word))
    return pieces
