"""Abstracts of made-up trials with a yes/no/maybe question, in the form of PubMedQA; and PubMedQA's files as such rows.

    python -m scripts.make pharma/pubmedqa --from ori_pqal.json --output pqal.jsonl

The answer of a made-up abstract follows a rule. Maybe: the trial stopped with less than half of its patients, or only a
subgroup differed. Else yes where the drug did better and P < 0.05, else no. Every abstract also has a sentence or two that
decides nothing. PubMedQA: Jin et al. 2019, arXiv 1909.06146; https://github.com/pubmedqa/pubmedqa (MIT).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from scripts.make.pharma.names import drug

ROWS, SEED = 1000, 17
KEPT = ("QUESTION", "CONTEXTS", "final_decision")
# Outcome, its unit, what is asked, what it did, smallest and largest change in steps of 0.1.
OUTCOMES = (
    ("systolic blood pressure", "mmHg", "lower", "fell", 20, 180), ("HbA1c", "%", "lower", "fell", 2, 18),
    ("LDL cholesterol", "mmol/L", "lower", "fell", 2, 16), ("body weight", "kg", "reduce", "fell", 5, 90),
    ("the pain score", "points", "reduce", "fell", 5, 40), ("serum urate", "mg/dL", "lower", "fell", 4, 35),
    ("the number of migraine days", "days", "reduce", "fell", 5, 60), ("wound size", "cm2", "reduce", "fell", 5, 70),
    ("intraocular pressure", "mmHg", "lower", "fell", 10, 80), ("C-reactive protein", "mg/L", "lower", "fell", 8, 120),
    ("haemoglobin", "g/L", "raise", "rose", 20, 180), ("walking distance", "m", "increase", "rose", 80, 600),
    ("bone mineral density", "%", "increase", "rose", 4, 50), ("ejection fraction", "points", "improve", "rose", 8, 90),
    ("sleep time", "min", "increase", "rose", 50, 600), ("grip strength", "kg", "improve", "rose", 5, 60),
    ("platelet count", "10^9/L", "raise", "rose", 60, 700), ("peak expiratory flow", "L/min", "improve", "rose", 60, 500),
)  # fmt: skip
PEOPLE = ("adults with type 2 diabetes", "women after menopause", "patients on dialysis", "adults with mild asthma",
          "patients with chronic heart failure", "older adults in care homes", "patients after hip surgery",
          "adults with rheumatoid arthritis", "adolescents with obesity", "patients with cirrhosis")  # fmt: skip
CASES = ("yes", "yes", "yes", "yes", "no difference", "no difference", "control better", "stopped", "subgroup")
DECISIONS = {"yes": "yes", "no difference": "no", "control better": "no", "stopped": "maybe", "subgroup": "maybe"}


def make(rows: int, seed: int) -> list[dict]:
    rng = random.Random(f"pubmedqa {seed}")
    return [{"id": f"T{number:05d}"} | trial(rng, CASES[number % len(CASES)]) for number in range(1, rows + 1)]


def read(path: Path) -> Iterator[dict]:
    """The rows of ori_pqal.json, or of a set that PubMedQA's split_dataset.py has made of it."""
    for pmid, row in json.loads(path.read_text(encoding="utf-8")).items():
        yield {"id": pmid} | {name: row[name] for name in KEPT} | {"outcome": pmid, "evidence": None}


def trial(rng: random.Random, case: str) -> dict:
    outcome, other = rng.sample(OUTCOMES, 2)
    name, _, asked, *_ = outcome
    people, new, weeks, planned = rng.choice(PEOPLE), drug(rng), rng.randint(4, 52), 2 * rng.randint(40, 300)
    control = rng.choice(["placebo", "usual care", drug(rng)])
    primary = change(rng, outcome, new, control, case)
    methods = f"{planned} {people} were to receive {new} or {control} for {weeks} weeks. The main outcome was {name}."
    ended = end_of(rng, planned, case)
    older = subgroup(rng, case)
    secondary = change(rng, other, new, control, rng.choice(["yes", "no difference"]))
    results = [primary, older, rng.choice([secondary, "Adverse events were alike in both groups."])]
    if rng.random() < 0.5:
        results = results[::-1]
    sentences = [ended, *filter(None, results)]
    return {
        "QUESTION": f"Does {new} {asked} {name} more than {control} in {people}?",
        "CONTEXTS": [methods, " ".join(sentences)],
        "final_decision": DECISIONS[case],
        "outcome": name,
        "evidence": {"stopped": ended, "subgroup": older}.get(case, primary),
    }


def change(rng: random.Random, outcome: tuple, new: str, control: str, case: str) -> str:
    """By how much an outcome changed in both groups, and P."""
    name, unit, _, did, least, most = outcome
    worse, better = sorted(rng.sample(range(least, most + 1), 2))
    p = rng.randint(1, 49) / 1000
    if case in ("no difference", "subgroup"):
        worse, p = better - rng.randint(1, max(1, (better - least) // 8 + 1)), rng.randint(20, 95) / 100
    first, second = (worse, better) if case == "control better" else (better, worse)
    groups = f"{first / 10} {unit} with {new} and by {second / 10} {unit} with {control}"
    return f"{name[0].upper()}{name[1:]} {did} by {groups} (P = {p})."


def end_of(rng: random.Random, planned: int, case: str) -> str:
    """How the trial ended."""
    if case == "stopped":
        return f"The trial was stopped after {round(planned * rng.uniform(0.1, 0.45))} of {planned} patients."
    return f"{round(planned * rng.uniform(0.8, 0.98))} of {planned} patients finished the trial."


def subgroup(rng: random.Random, case: str) -> str | None:
    """The sentence on older patients: where it decides, they differed; else, if there, they did not."""
    age = rng.choice([60, 65, 70, 75])
    if case == "subgroup":
        return f"Among those over {age} the difference was clear (P = {rng.randint(1, 40) / 1000})."
    return (
        f"Those over {age} did not differ from the others (P = {rng.randint(20, 95) / 100})."
        if rng.random() < 0.4
        else None
    )
