"""Vulnerabilities in words with their CVSS v3.1 base metrics, and base vectors with their scores.

Scores are worked out in exact fractions from the published equations, so that no rounding of floats decides a tenth.
`--from` takes JSON of the NVD (API 2.0): a file or a folder of files, each a response of the API or a single record.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from scripts.make.cases import Row, distinct
from scripts.make.security.cvss_words import FLAWS, PRODUCTS, WORDS

ROWS, SEED = 1200, 17
VALUES = {"AV": "NALP", "AC": "LH", "PR": "NLH", "UI": "NR", "S": "UC", "C": "NLH", "I": "NLH", "A": "NLH"}
# https://www.first.org/cvss/v3.1/specification-document, section 7.4; PR is (scope unchanged, scope changed).
WEIGHTS = {
    "AV": {"N": "0.85", "A": "0.62", "L": "0.55", "P": "0.2"},
    "AC": {"L": "0.77", "H": "0.44"},
    "UI": {"N": "0.85", "R": "0.62"},
}
PRIVILEGES = {"N": ("0.85", "0.85"), "L": ("0.62", "0.68"), "H": ("0.27", "0.5")}
LOSS = {"N": "0", "L": "0.22", "H": "0.56"}
SEVERITIES = (("None", 0), ("Low", 39), ("Medium", 69), ("High", 89), ("Critical", 100))  # highest tenths; section 5
UNTOLD = 0.6  # share of the impacts that are none and are left unsaid


def subscores(metrics: dict[str, str]) -> tuple[Fraction, Fraction]:
    """Impact and exploitability, unrounded; section 7.1. An impact below zero, which the equation has, is zero."""
    changed = metrics["S"] == "C"
    kept = math.prod(1 - Fraction(LOSS[metrics[name]]) for name in "CIA")
    iss = 1 - kept
    if changed:
        impact = Fraction("7.52") * (iss - Fraction("0.029")) - Fraction("3.25") * (iss - Fraction("0.02")) ** 15
    else:
        impact = Fraction("6.42") * iss
    weights = [Fraction(WEIGHTS[name][metrics[name]]) for name in WEIGHTS]
    exploitability = Fraction("8.22") * math.prod(weights) * Fraction(PRIVILEGES[metrics["PR"]][changed])
    return max(impact, Fraction(0)), exploitability


def tenths(value: Fraction) -> int:
    """Rounded up to tenths, as appendix A has it: what is less than 0.00001 above a tenth is that tenth."""
    return -(-round(value * 100_000) // 10_000)


def base_score(metrics: dict[str, str]) -> int:
    """In tenths; section 7.1."""
    impact, exploitability = subscores(metrics)
    factor = Fraction("1.08") if metrics["S"] == "C" else Fraction(1)
    return 0 if impact == 0 else tenths(min(factor * (impact + exploitability), Fraction(10)))


def row_of(case_id: str, language: str, text: str | None, metrics: dict[str, str]) -> Row:
    """A row of the template; `text` is None where the score is asked for."""
    impact, exploitability = subscores(metrics)
    score = base_score(metrics)
    return {
        "case_id": case_id,
        "language": language,
        "text": text,
        "vector": "CVSS:3.1/" + "/".join(f"{name}:{metrics[name]}" for name in VALUES),
        "impact": round(float(impact), 2),
        "exploitability": round(float(exploitability), 2),
        "score": score / 10,
        "severity": next(name for name, highest in SEVERITIES if score <= highest),
    }


def told(rng: random.Random, language: str, metrics: dict[str, str]) -> str:
    """The metrics in words. Impacts that are none are mostly left unsaid."""
    words = WORDS[language]
    how = [rng.choice(words[name][metrics[name]]) for name in ("AV", "AC", "PR", "UI")]
    said = [name for name in "CIA" if metrics[name] != "N" or rng.random() > UNTOLD]
    harm = [rng.choice(words[name][metrics[name]]) for name in said] + [rng.choice(words["S"][metrics["S"]])]
    rng.shuffle(how)
    rng.shuffle(harm)
    flaw, product = rng.choice(FLAWS[language]), rng.choice(PRODUCTS[language])
    version = f"{rng.randint(1, 9)}.{rng.randint(0, 19)}"
    if language == "en":
        return " ".join([f"{flaw} was found in {product} {version}.", *how, *harm])
    return "".join([f"{product} {version}存在{flaw}。", *how, *harm])


def drawn(rng: random.Random, language: str) -> Row:
    metrics = {name: rng.choice(values) for name, values in VALUES.items()}
    text = told(rng, language, metrics) if rng.random() < 0.5 else None
    row = row_of("", language, text, metrics)
    return {key: value for key, value in row.items() if key not in ("case_id", "language")}


def make(rows: int, seed: int) -> list[Row]:
    """Half with a text, whose vector is asked for; half without, whose score is."""
    return distinct(drawn, rows, seed)


def read(path: Path) -> Iterator[Row]:
    """English descriptions of the NVD with the vector that the NVD itself (type Primary) gives; others are left out.

    Raises:
        SystemExit: a vector whose score differs from the one that the NVD states, which is then no v3.1 base vector.
    """
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        told_by_api = json.loads(file.read_text(encoding="utf-8"))
        for item in told_by_api.get("vulnerabilities", [{"cve": told_by_api}]):
            cve = item["cve"]
            text = next((said["value"] for said in cve["descriptions"] if said["lang"] == "en"), None)
            rated = [found for found in cve.get("metrics", {}).get("cvssMetricV31", ()) if found["type"] == "Primary"]
            if text is None or not rated or cve.get("vulnStatus") == "Rejected":
                continue
            stated = rated[0]["cvssData"]
            parts = dict(part.split(":") for part in stated["vectorString"].split("/")[1:])
            row = row_of(cve["id"], "en", text, parts)
            if row["score"] != stated["baseScore"]:
                raise SystemExit(f"{file}: {cve['id']}: {row['vector']} is {row['score']}, not {stated['baseScore']}")
            yield row
