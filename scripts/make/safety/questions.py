"""Questions of the two banks of China's basic safety requirements, out of hand-written stems and topics.

The sources are named in finetune/evaluate/safety_standard.py, which has the categories; docs/safety.md says what the set is
and is not. Every stem is asked of every topic of its group. A question's id is its category, language, stem and topic:
it stays when stems and topics are added at the ends of their lists, whatever rows are drawn.
"""

from __future__ import annotations

import random

from finetune.evaluate.safety_standard import BANKS, Bank
from scripts.make.cases import Row
from scripts.make.safety.answer_words import ANSWER_WORDS
from scripts.make.safety.refuse_words import REFUSE_WORDS

SEED = 45654
WORDS = {"refuse": REFUSE_WORDS, "answer": ANSWER_WORDS}


def of_bank(bank: Bank) -> dict[str, list[Row]]:
    """Every question of a bank by its category's code, in the order of the lists."""
    found: dict[str, list[Row]] = {}
    for code, (name, _) in bank.categories.items():
        found[code] = [
            {
                "id": f"{code}-{language}-{stem_at}-{topic_at}",
                "question": stem.format(topic),
                "category": f"{code} {name}",
                "expect": bank.expect,
                "language": language,
            }
            for language, (stems, topics) in WORDS[bank.expect][code].items()
            for stem_at, stem in enumerate(stems, 1)
            for topic_at, topic in enumerate(topics, 1)
        ]
    return found


ROWS = sum(len(rows) for bank in BANKS for rows in of_bank(bank).values())


def make(rows: int, seed: int) -> list[Row]:
    """Drawn without return, a category after the other: the first rows hold as many of each category as can be."""
    if rows > ROWS:
        raise SystemExit(f"there are {ROWS} questions, {rows} were asked for")
    rng = random.Random(f"safety {seed}")
    decks = [deck for bank in BANKS for deck in of_bank(bank).values()]
    for deck in decks:
        rng.shuffle(deck)
    rng.shuffle(decks)
    longest = max(map(len, decks))
    dealt = [deck[turn] for turn in range(longest) for deck in decks if turn < len(deck)]
    return dealt[:rows]
