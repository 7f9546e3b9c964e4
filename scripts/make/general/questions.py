"""General questions with one short answer, against forgetting: what a model knew before it was tuned for an industry.

Knowledge, arithmetic, language and common sense, half English, half Chinese; facts that do not change and that no industry
of the packs is about. All written for this project. A question's id is its language, kind and place in its list.
"""

from __future__ import annotations

import random

from scripts.make.cases import Row
from scripts.make.general.questions_en import ENGLISH
from scripts.make.general.questions_zh import CHINESE

SEED = 30


def all_questions() -> list[Row]:
    """In the order of the lists."""
    return [
        {
            "id": f"{language}-{kind}-{at:02d}",
            "question": question,
            "answers": [wording.strip() for wording in answers.split("|")],
            "kind": kind,
            "language": language,
        }
        for language, kinds in (("en", ENGLISH), ("zh", CHINESE))
        for kind, lines in kinds.items()
        for at, line in enumerate(lines.strip().splitlines(), 1)
        for question, answers in [line.strip().rsplit(" = ", 1)]
    ]


ROWS = len(all_questions())


def make(rows: int, seed: int) -> list[Row]:
    """Drawn without return, kinds and languages in turn, so that the first rows are a fair part of the whole."""
    if rows > ROWS:
        raise SystemExit(f"there are {ROWS} questions, {rows} were asked for")
    rng = random.Random(f"general {seed}")
    decks: dict[str, list[Row]] = {}
    for row in all_questions():
        decks.setdefault(f"{row['language']} {row['kind']}", []).append(row)
    for deck in decks.values():
        rng.shuffle(deck)
    dealt = [deck[turn] for turn in range(max(map(len, decks.values()))) for deck in decks.values() if turn < len(deck)]
    return dealt[:rows]
