"""Reports of suspected adverse reactions: which drug did what, how serious, how soon. And ADE-Corpus-V2 as such rows.

    python -m scripts.make pharma/adverse_events --from DRUG-AE.rel --output ade.jsonl

Made-up cases, half English and half Chinese. Serious is what ICH E2A (1994), II.B, calls so: death, danger to life, a
hospital stay begun or prolonged, lasting disability. A visit to the emergency room, or a stay that goes on as planned, is
not. Corpus: Gurulingappa et al. 2012, doi:10.1016/j.jbi.2012.04.008; on the hub ade-benchmark-corpus/ade_corpus_v2.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from scripts.make.pharma import adverse_event_words as words
from scripts.make.pharma.names import drug, zh_drug

ROWS, SEED = 1000, 17
DRUGS = 60  # names a language, so that a name stands in several rows
ONSETS = ("days", "days", "dates", "dates", "weeks", "same day", "unknown")
CRITERIA = (None, None, None, "hospitalisation", "hospitalisation", "life-threatening", "disability", "death")


def make(rows: int, seed: int) -> list[dict]:
    rng = random.Random(f"adverse events {seed}")
    names = {"en": sorted({drug(rng) for _ in range(DRUGS)}), "zh": sorted({zh_drug(rng) for _ in range(DRUGS)})}
    made: dict[str, dict] = {}
    while len(made) < rows:
        language = ("en", "zh")[len(made) % 2]
        case = (
            tolerated(rng, language, names[language])
            if rng.random() < 0.08
            else reaction(rng, language, names[language])
        )
        made.setdefault(case["narrative"], {"language": language} | case)
    return list(made.values())


def reaction(rng: random.Random, language: str, names: list[str]) -> dict:
    """A drug and one or two reactions to it, beside another drug that is innocent or did something else before."""
    text = words.WORDS[language]
    suspect, other = rng.sample(names, 2)
    effects = rng.sample(text["reactions"], rng.choice([1, 1, 2]))
    earlier = (
        rng.choice([effect for effect in text["reactions"] if effect not in effects]) if rng.random() < 0.3 else None
    )
    criterion = rng.choice(CRITERIA)
    outcome = "fatal" if criterion == "death" else rng.choice(["recovered", "recovering", "not recovered", "unknown"])
    onset, days = onset_of(rng, language, rng.choice(ONSETS))
    facts = {
        "drug": suspect,
        "other": other,
        "age": rng.randint(19, 88),
        "who": rng.choice(text["who"]),
        "use": rng.choice(text["uses"]),
        "dose": rng.choice([5, 10, 20, 25, 40, 50, 75, 100, 150, 200]),
        "effects": text["and"].join(effects),
        "earlier": earlier,
        "stay": rng.randint(2, 21),
    }
    sentences = [
        rng.choice(text["starts"]),
        text["earlier"] if earlier else rng.choice(text["others"]),
        onset,
        rng.choice(text["criteria"][criterion]),
        text["outcomes"][outcome],
    ]
    pairs = [{"drug": suspect, "effect": effect} for effect in effects]
    return {
        "narrative": text["between"].join(sentences).format(**facts),
        "drug": suspect,
        "pairs": [*pairs, {"drug": other, "effect": earlier}] if earlier else pairs,
        "report": {
            "drug": suspect,
            "reactions": effects,
            "serious": criterion is not None,
            "criterion": criterion,
            "onset_days": days,
            "outcome": outcome,
        },
    }


def tolerated(rng: random.Random, language: str, names: list[str]) -> dict:
    """A drug that did nothing."""
    text = words.WORDS[language]
    suspect, other = rng.sample(names, 2)
    facts = {
        "drug": suspect,
        "other": other,
        "age": rng.randint(19, 88),
        "who": rng.choice(text["who"]),
        "use": rng.choice(text["uses"]),
        "dose": rng.choice([5, 10, 20, 50, 100]),
    }
    sentences = [rng.choice(text["starts"]), rng.choice(text["others"]), rng.choice(text["tolerated"])]
    return {"narrative": text["between"].join(sentences).format(**facts), "drug": suspect, "pairs": [], "report": None}


def onset_of(rng: random.Random, language: str, how: str) -> tuple[str, int | None]:
    """The sentence on when it began, and after how many days; None where that is not said."""
    sentence = words.WORDS[language]["onsets"][how]
    if how == "days":
        days = rng.randint(2, 27)
        return sentence.replace("[days]", str(days)), days
    if how == "weeks":
        weeks = rng.randint(2, 8)
        return sentence.replace("[weeks]", str(weeks)), 7 * weeks
    if how == "dates":
        first, days, month = rng.randint(1, 15), rng.randint(1, 13), rng.randrange(12)
        said = sentence.replace("[first]", str(first)).replace("[then]", str(first + days))
        return said.replace("[month]", words.WORDS[language]["months"][month]), days
    return sentence, 0 if how == "same day" else None


def read(path: Path) -> Iterator[dict]:
    """The sentences of DRUG-AE.rel (PMID|sentence|effect|..|..|drug|..|..), or of a JSON Lines export of the hub's subset
    Ade_corpus_v2_drug_ade_relation (text, drug, effect), each once, with all of its pairs."""
    found: dict[str, list[dict]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            text, name, effect = row["text"], row["drug"], row["effect"]
        else:
            _, text, effect, _, _, name, *_ = line.split("|")
        pair = {"drug": " ".join(name.split()), "effect": " ".join(effect.split())}
        pairs = found.setdefault(" ".join(text.split()), [])
        if pair not in pairs:
            pairs.append(pair)
    for text, pairs in found.items():
        yield {"language": "en", "narrative": text, "drug": pairs[0]["drug"], "pairs": pairs, "report": None}
