"""Retrieval-augmented rows: a question, its gold passages among distractors, and questions whose passage is missing.

After RAFT (Zhang et al. 2024, arXiv 2403.10131): a share of the rows loses its gold passage. Distractors are what BM25
(Robertson et al. 1994) finds for the question, so they are as near to it as those of a search engine.

Every row depends on its own record, the passages and the settings alone, never on the order of rows or passages. Questions
and passages are dealt into folds, and a row sees passages of its own fold only: held out by fold, no text that answers a
held-out question is seen in training.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from finetune.data.rows import Row
from finetune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

NEEDED = ("question", "answer", "gold")  # columns of a question
MADE = ("passages", "cites", "answerable", "fold")  # columns that are added
GRAM = 5  # characters: pieces by which two texts are compared
SAME = 0.5  # a passage with this share of the evidence's pieces answers the question too


@dataclass(frozen=True)
class Retrieval:
    """How rows are built.

    Attributes:
        distractors: passages beside the gold ones; where those are left out, as many more.
        without_gold: share of the questions that lose their gold passages.
        then: what is right for those: `refuse` (`answerable` is false), or `memory` (the answer, citing nothing).
        folds: how many parts the passages are dealt into.
    """

    distractors: int = 3
    without_gold: float = 0.2
    then: str = "refuse"
    folds: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Passage:
    """One passage. `pieces`: its text in runs of GRAM characters, normalised."""

    id: str
    text: str
    where: str
    pieces: frozenset[str]


def build(questions: Sequence[Row], passages: Sequence[Row], settings: Retrieval) -> list[dict[str, Any]]:
    """The rows, in the order of the questions.

    A question has `question`, `answer`, `gold` (a passage's id, or a list of them; an empty list: no passage answers
    it), and may have `evidence`, the sentence that answers it: a passage that holds half of it, or half of a gold passage,
    is never a distractor. Its other columns are kept. A passage has `id` and `text`. Added are `passages` (a
    list of id and text), `cites` (the numbers, from 1, of the gold ones among them), `answerable` and `fold`.

    Raises:
        DataError: columns missing or of the wrong type, an id twice or unknown, too few passages in a fold; all of them.
    """
    problems: list[str] = []
    known = _passages(passages, problems)
    gold = [_gold(row, known, problems) for row in questions]
    if problems:
        raise DataError(problems)
    folds = _folds(list(known.values()), gold, settings)
    shelves: dict[int, _Shelf] = {}
    for number in sorted(set(folds.values())):
        shelves[number] = _Shelf([known[name] for name in sorted(known) if folds[name] == number])
    rows = []
    for row, names in zip(questions, gold, strict=True):
        own = folds[names[0]] if names else _below(settings.folds, settings.seed, "fold", _key(row))
        shelf = shelves.get(own)
        try:
            rows.append(_row(row, [known[name] for name in names], own, shelf, settings))
        except LookupError as error:
            problems.append(f"{row.where}: {error}")
    if problems:
        raise DataError(problems)
    return rows


def _row(row: Row, gold: list[Passage], fold: int, shelf: _Shelf | None, settings: Retrieval) -> dict[str, Any]:
    """Raises LookupError: the fold has too few passages."""
    key = _key(row)
    hidden = not gold or _share(settings.seed, "without gold", key) < settings.without_gold
    wanted = settings.distractors + (max(len(gold), 1) if hidden else 0)
    evidence = row.values.get("evidence")
    found = shelf.nearest(row.values["question"], gold, evidence, wanted) if shelf else []
    if len(found) < wanted:
        raise LookupError(f"{len(found)} distractors in its fold, {wanted} are needed; more passages or fewer folds")
    shown = sorted(found + ([] if hidden else gold), key=lambda item: _hash(settings.seed, "order", key, item.id))
    ids = {item.id for item in gold}
    return {name: value for name, value in row.values.items() if name != "evidence"} | {
        "passages": [{"id": item.id, "text": item.text} for item in shown],
        "cites": [number for number, item in enumerate(shown, 1) if item.id in ids],
        "answerable": bool(gold) and not (hidden and settings.then == "refuse"),
        "fold": fold,
    }


class _Shelf:
    """The passages of one fold, searched by BM25; equal scores in the order of ids."""

    def __init__(self, passages: list[Passage]) -> None:
        import bm25s

        self.passages = passages
        self._index = bm25s.BM25()
        self._index.index([words(item.text) for item in passages], show_progress=False)

    def nearest(self, question: str, gold: list[Passage], evidence: str | None, count: int) -> list[Passage]:
        """The best `count` that do not answer the question too; fewer where there are no more."""
        answers = [item.pieces for item in gold] + ([_pieces(evidence)] if evidence else [])
        ids = {item.id for item in gold}
        found: list[Passage] = []
        scores: np.ndarray = self._index.get_scores(words(question) or [""])
        for place in (-scores).argsort(kind="stable"):
            item = self.passages[int(place)]
            if len(found) == count:
                break
            if item.id not in ids and not any(_holds(item, pieces) for pieces in answers):
                answers.append(item.pieces)  # nor two that say the same
                found.append(item)
        return found


def words(text: str) -> list[str]:
    """What BM25 compares: words and numbers, and of Chinese and other unspaced scripts pairs of characters."""
    found = []
    for run in re.findall(r"[a-z0-9]+(?:\.[0-9]+)?|[^\W\d_a-z]+", _plain(text)):
        spaced = run.isascii() or len(run) == 1
        found += [run] if spaced else [a + b for a, b in pairwise(run)]
    return found


def _holds(passage: Passage, pieces: frozenset[str]) -> bool:
    return len(passage.pieces & pieces) >= SAME * max(len(pieces), 1)


def _pieces(text: str) -> frozenset[str]:
    bare = re.sub(r"[\W_]+", "", _plain(text))
    return frozenset(bare[i : i + GRAM] for i in range(max(1, len(bare) - GRAM + 1)))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _passages(rows: Sequence[Row], problems: list[str]) -> dict[str, Passage]:
    known: dict[str, Passage] = {}
    for row in rows:
        name, text = row.values.get("id"), row.values.get("text")
        for column, value in (("id", name), ("text", text)):
            if not isinstance(value, str) or not value.strip():
                hint = "" if column in row.values else did_you_mean(column, map(str, row.values), "the row has")
                problems.append(f"{row.where}: {column}: text is needed, got {value!r}{hint}")
        if not isinstance(name, str) or not isinstance(text, str):
            continue
        if name in known:
            problems.append(f"{row.where}: id: {name!r} is that of {known[name].where} too")
        known.setdefault(name, Passage(name, text, row.where, _pieces(text)))
    return known


def _gold(row: Row, known: dict[str, Passage], problems: list[str]) -> list[str]:
    """Ids of the gold passages, each once, in their order."""
    for column in NEEDED:
        if column not in row.values:
            problems.append(f"{row.where}: {column}: is missing{did_you_mean(column, map(str, row.values))}")
    for column in MADE:
        if column in row.values:
            problems.append(f"{row.where}: {column}: is a column that is added; rename it")
    for column in ("question", "evidence"):
        value = row.values.get(column, "")
        if not isinstance(value, str) and not (column == "evidence" and value is None):
            problems.append(f"{row.where}: {column}: text is needed, got {value!r}")
    given = row.values.get("gold", [])
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problems.append(f"{row.where}: gold: a passage's id or a list of ids is needed, got {given!r}")
        return []
    problems += [
        f"{row.where}: gold: no passage has the id {name!r}{did_you_mean(name, known)}"
        for name in names
        if name not in known
    ]
    return list(dict.fromkeys(names))


def _folds(passages: Sequence[Passage], gold: Iterable[list[str]], settings: Retrieval) -> dict[str, int]:
    """The fold of each passage, by its id. Passages of one question, and those that say the same, stay together."""
    parent = {item.id: item.id for item in passages}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    def join(one: str, other: str) -> None:
        least, most = sorted((root(one), root(other)))
        parent[most] = least

    for names in gold:
        for name in names[1:]:
            join(names[0], name)
    for one, other in _alike(passages):
        join(one, other)
    return {name: _below(settings.folds, settings.seed, "fold", root(name)) for name in parent}


def _alike(passages: Sequence[Passage]) -> list[tuple[str, str]]:
    """Pairs of which one holds half of the other's pieces, counted through the passages that have a piece."""
    having: dict[str, list[int]] = {}
    for place, item in enumerate(passages):
        for piece in item.pieces:
            having.setdefault(piece, []).append(place)
    pairs = []
    for place, item in enumerate(passages):
        shared: dict[int, int] = {}
        for piece in item.pieces:
            for other in having[piece]:
                shared[other] = shared.get(other, 0) + 1
        least = SAME * len(item.pieces)
        pairs += [(item.id, passages[other].id) for other, n in shared.items() if other != place and n >= least]
    return pairs


def _key(row: Row) -> str:
    return json.dumps(row.values, ensure_ascii=False, sort_keys=True, default=str)


def _hash(seed: int, *parts: str) -> bytes:
    return hashlib.sha256("\n".join((str(seed), *parts)).encode()).digest()


def _share(seed: int, *parts: str) -> float:
    """A number in [0, 1) that these words have."""
    return int.from_bytes(_hash(seed, *parts)[:8]) / 2**64


def _below(count: int, seed: int, *parts: str) -> int:
    return int(_share(seed, *parts) * count)
