"""Several judgements of one answer: the majority stands, a tie stands for nothing, and of those that agree the first stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from finetune.feedback.entry import Entry, answer_key
from finetune.feedback.log import LeftOut


def settle(entries: Sequence[Entry], left_out: list[LeftOut]) -> list[Entry]:
    """Of the judgements of one answer to one prompt, at most one rating and one correction; the others are left out.

    A rating is a vote for good or bad. A correction is a vote for bad, unless its own rating is good (the answer was
    right and could be better). Where most found the answer good, corrections of it are outvoted. Of several different
    corrections the one given most often stands.
    """
    votes = Counter(vote for entry in entries if (vote := _vote(entry)))
    verdict = _most(votes)
    kept: dict[bool, Entry] = {}  # by whether it is a correction
    if verdict is None:
        left_out += [entry.left_out("contradictory", _told(votes)) for entry in entries if _vote(entry)]
        entries = [entry for entry in entries if not _vote(entry)]
    fixes = Counter(answer_key(entry.correction) for entry in entries if entry.correction and _stands(entry, verdict))
    best = _most(fixes)
    for entry in entries:
        if not _stands(entry, verdict):
            left_out.append(entry.left_out("outvoted", _told(votes)))
        elif entry.correction and best is None:
            left_out.append(entry.left_out("contradictory", f"{len(fixes)} different corrections"))
        elif entry.correction and answer_key(entry.correction) != best:
            left_out.append(entry.left_out("outvoted", "another correction was given more often"))
        elif (first := kept.get(bool(entry.correction))) is not None:
            left_out.append(entry.left_out("duplicate", f"as {first.where}"))
        else:
            kept[bool(entry.correction)] = entry
    return list(kept.values())


def _vote(entry: Entry) -> str:
    """Empty: no vote. Only an answer that is there can be found good or bad."""
    if entry.answer is None:
        return ""
    return "" if entry.correction and entry.verdict == "good" else "bad" if entry.correction else entry.verdict


def _stands(entry: Entry, verdict: str | None) -> bool:
    return _vote(entry) in ("", verdict)


def _most(votes: Counter[str]) -> str | None:
    """What has more votes than anything else; empty where nobody voted, None for a tie."""
    first = votes.most_common(2)
    if not first:
        return ""
    return None if len(first) == 2 and first[0][1] == first[1][1] else first[0][0]


def _told(votes: Counter[str]) -> str:
    return f"{votes['good']} for good, {votes['bad']} for bad"
