"""What becomes of judged answers: conversations to train on, preference pairs, labelled answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.data.rows import Message
from finetune.feedback.answer import argument_problems
from finetune.feedback.entry import Entry, answer_key, prompt_key
from finetune.feedback.log import LeftOut
from finetune.feedback.votes import settle

SFT, PREFERENCE, LABELLED = "sft.jsonl", "preference.jsonl", "labelled.jsonl"
FILES = (SFT, PREFERENCE, LABELLED)
RECORD = "feedback.json"  # what makes a folder an import


@dataclass(frozen=True)
class Made:
    """One row of an output file.

    Attributes:
        entries: the judgements it came of; of a pair from two answers, first the one of the better.
        done: what was done, in words for the lineage.
    """

    file: str
    values: dict[str, Any]
    entries: tuple[Entry, ...]
    done: str


def judge(entries: Iterable[Entry], least_correction: float, left_out: list[LeftOut]) -> list[Entry]:
    """Entries that may be used by themselves; what each alone rules out is left out here.

    A correction that says what the answer says is none where the answer was found good.
    """
    kept = []
    for entry in entries:
        given, fixed = answer_key(entry.answer), answer_key(entry.correction)
        if fixed and fixed == given:
            if entry.verdict != "good":
                left_out.append(entry.left_out("same_correction"))
                continue
            entry, fixed = replace(entry, correction=None), ""
        if fixed and len(fixed) < least_correction * len(given):
            detail = f"{len(fixed)} characters for an answer of {len(given)}"
            left_out.append(entry.left_out("short_correction", detail))
        elif not fixed and entry.verdict in ("between", ""):
            left_out.append(entry.left_out("between" if entry.verdict else "unrated"))
        elif not fixed and entry.answer is None:
            left_out.append(entry.left_out(*entry.without))
        elif not fixed and entry.verdict == "good" and (wrong := _untrainable(entry)):
            left_out.append(entry.left_out("untrainable", wrong))
        else:
            kept.append(entry)
    return kept


def make_rows(entries: Sequence[Entry], left_out: list[LeftOut]) -> list[Made]:
    """The rows of all output files, prompt by prompt in the order in which these first come.

    Every entry is in a row or left out.
    """
    prompts: dict[bytes, list[Entry]] = {}
    for entry in entries:
        prompts.setdefault(prompt_key(entry), []).append(entry)
    made = []
    for same in prompts.values():
        answers: dict[str, list[Entry]] = {}
        for entry in same:
            answers.setdefault(answer_key(entry.answer), []).append(entry)
        settled = [entry for judgements in answers.values() for entry in settle(judgements, left_out)]
        made += _of_prompt(_consistent(settled, left_out), left_out)
    return made


def _consistent(entries: list[Entry], left_out: list[LeftOut]) -> list[Entry]:
    """Without corrections to what was itself found bad or corrected, and without the judgements of that answer."""
    better = {answer_key(entry.correction) for entry in entries if entry.correction}
    worse = {answer_key(entry.answer) for entry in entries if entry.answer and _worse(entry)}
    both = better & worse
    kept = []
    for entry in entries:
        says = {answer_key(entry.correction)} | ({answer_key(entry.answer)} if _worse(entry) else set())
        if says & both:
            left_out.append(entry.left_out("contradictory", "the correction of one answer was itself found bad"))
        else:
            kept.append(entry)
    return kept


def _worse(entry: Entry) -> bool:
    return bool(entry.correction) or entry.verdict == "bad"


def _of_prompt(entries: list[Entry], left_out: list[LeftOut]) -> list[Made]:
    """The rows of one prompt; each answer in `entries` at most rated once and corrected once."""
    made: list[Made] = []
    good: dict[str, tuple[Message, Entry]] = {}  # what is trained, once
    bad: list[Entry] = []
    fixed: dict[str, Entry] = {}  # answers that have a correction
    for entry in (item for item in entries if item.correction):
        assert entry.correction is not None
        first = good.setdefault(answer_key(entry.correction), (entry.correction, entry))[1]
        if first is entry:
            made += _trained(entry, entry.correction, "the correction is trained")
        elif entry.answer is None:  # no pair either
            left_out.append(entry.left_out("duplicate", f"the correction at {first.where} says the same"))
        if entry.answer is not None:
            fixed[answer_key(entry.answer)] = entry
            made.append(_pair(entry.correction, entry.answer, (entry,), "the correction before the answer given"))
            if entry.verdict == "bad":
                made.append(_labelled(entry, entry.answer, False))
    for entry in (item for item in entries if not item.correction):
        assert entry.answer is not None  # `judge` has seen to it
        twin = fixed.get(answer_key(entry.answer))
        if entry.verdict == "bad" and twin is not None and twin.verdict == "bad":
            left_out.append(entry.left_out("duplicate", f"{twin.where} found it bad and has a correction"))
        elif entry.verdict == "bad":
            bad += [] if twin is not None else [entry]
            made.append(_labelled(entry, entry.answer, False))
        elif (same := good.get(answer_key(entry.answer))) is not None:
            left_out.append(entry.left_out("duplicate", f"the correction at {same[1].where} says the same"))
        else:
            good[answer_key(entry.answer)] = (entry.answer, entry)
            made += _trained(entry, entry.answer, "rated good")
    return made + _pairs(list(good.values()), bad)


def _pairs(good: list[tuple[Message, Entry]], bad: list[Entry]) -> list[Made]:
    """Every bad answer once, and where good ones are more every good one once; the shorter list begins anew."""
    if not good or not bad:
        return []
    made = []
    for index in range(max(len(good), len(bad))):
        (chosen, better), worse = good[index % len(good)], bad[index % len(bad)]
        assert worse.answer is not None
        made.append(_pair(chosen, worse.answer, (better, worse), "two answers to one prompt"))
    return made


def _trained(entry: Entry, answer: Message, done: str) -> list[Made]:
    row = Made(SFT, _with_tools({"messages": [*entry.prompt, answer]}, entry), (entry,), done)
    return [row, _labelled(entry, answer, True)]


def _pair(chosen: Message, rejected: Message, entries: tuple[Entry, ...], done: str) -> Made:
    sides = {"prompt": list(entries[0].prompt), "chosen": [chosen], "rejected": [rejected]}
    return Made(PREFERENCE, _with_tools(sides, entries[0]), entries, done)


def labelled_values(entry: Entry, answer: Message, label: bool) -> dict[str, Any]:
    """A row of labelled.jsonl."""
    return _with_tools({"prompt": list(entry.prompt), "completion": [answer], "label": label}, entry)


def _labelled(entry: Entry, answer: Message, label: bool) -> Made:
    done = "corrected" if label and entry.correction is not None else "rated good" if label else "rated bad"
    return Made(LABELLED, labelled_values(entry, answer, label), (entry,), done)


def _with_tools(values: dict[str, Any], entry: Entry) -> dict[str, Any]:
    return values | {"tools": list(entry.tools)} if entry.tools else values


def _untrainable(entry: Entry) -> str:
    assert entry.answer is not None
    return next(iter(argument_problems(entry.answer, entry.tools)), "")
