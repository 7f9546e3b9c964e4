"""Tables of made-up annual reports with paragraphs and questions, in the schema of TAT-QA (arXiv 2105.07624), one question a row.

Five questions a table: a span, several spans, arithmetic twice, and a count or a year.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

ROWS, SEED = 1000, 17
LINES = {
    "Licences": "perpetual licences and upgrades sold to resellers",
    "Support services": "telephone support, training and on-site visits",
    "Rental income": "rents of warehouses and of two office buildings",
    "Freight": "road and rail freight booked by third parties",
    "Advertising": "banners and sponsored listings on our sites",
    "Spare parts": "spare parts delivered under maintenance contracts",
    "Interest expense": "interest on senior notes and on the term loan",
    "Marketing costs": "trade fairs, agencies and customer events",
    "Research costs": "salaries of engineers and materials for prototypes",
    "Insurance": "premiums for property, liability and cargo",
    "Subscriptions": "monthly fees of private and corporate users",
    "Energy costs": "electricity and natural gas of the three plants",
    "Legal fees": "fees of outside counsel and of patent agents",
    "Royalties": "royalties on patents licensed to other makers",
}
REASONS = (
    "the opening of a second site", "higher prices for raw materials", "one large order in the fourth quarter",
    "the sale of the northern branch", "a weaker dollar", "fewer working days", "the new contract with a utility",
    "a change in the product mix", "longer delivery times of suppliers", "the return of seasonal demand",
)  # fmt: skip
Question = tuple[str, Any, str, str]  # question, answer, answer_type, scale


def cell(value: int, tenths: bool, dollar: bool) -> str:
    """`$ 1,234`, or `1,234.5` of a value in tenths."""
    return ("$" if dollar else "") + (f"{value / 10:,.1f}" if tenths else f"{value:,}")


def plain(value: Fraction) -> int | float:
    """To two decimals, as TAT-QA's numbers are."""
    rounded = round(value, 2)
    return int(rounded) if rounded.denominator == 1 else float(rounded)


def near_tie(value: Fraction) -> bool:
    """So near the middle between two hundredths that floats may round to the other."""
    beyond = abs(value) * 100
    return abs(beyond - int(beyond) - Fraction(1, 2)) < Fraction(1, 1000)


def worked(
    rng: random.Random, names: list[str], years: list[int], values: list[list[Fraction]], scale: str
) -> Iterator[Question]:
    """Arithmetic on one line of the table, or on two."""
    (one, new, old), other = rng.choice([(n, v[0], v[1]) for n, v in zip(names, values, strict=True)]), values[-1][0]
    last = names[-1]
    yield f"What is the change in {one} from {years[1]} to {years[0]}?", new - old, "arithmetic", scale
    yield (f"What is the percentage change in {one} from {years[1]} to {years[0]}?",
           (new - old) / old * 100, "arithmetic", "percent")  # fmt: skip
    yield f"What is the average of {one} for {years[1]} and {years[0]}?", (new + old) / 2, "arithmetic", scale
    if one != last:
        yield f"What is the ratio of {one} to {last} in {years[0]}?", new / other, "arithmetic", ""
        yield f"What is the sum of {one} and {last} in {years[0]}?", new + other, "arithmetic", scale


def context(rng: random.Random, uid: str) -> tuple[dict, list[Question]]:
    """A table with its paragraphs, and five questions on it."""
    names, last = rng.sample(list(LINES), 3), rng.randint(2012, 2022)
    years, scale, tenths = [last, last - 1, last - 2], rng.choice(("thousand", "million")), rng.random() < 0.4
    raw = [[rng.randint(120, 60_000) for _ in years] for _ in names]
    values = [[Fraction(value, 10 if tenths else 1) for value in line] for line in raw]
    cells = [[cell(value, tenths, at == 0) for value in line] for at, line in enumerate(raw)]
    about, reason = rng.choice(names), rng.choice(REASONS)
    moved = values[names.index(about)]
    word = "increased" if moved[0] > moved[1] else "decreased"
    texts = [
        f"The table gives amounts in {scale}s for the years ended December 31.",
        f"{about} {word} in {last}, mainly due to {reason}. The line covers {LINES[about]}.",
    ]
    at = rng.randrange(3)
    name, line = names[at], values[at]
    bar = sorted(line)[rng.randrange(3)] - Fraction(1, 10) if tenths else sorted(line)[rng.randrange(3)] - 1
    above = [year for year, value in zip(years, line, strict=True) if value > bar]
    shown = f"{float(bar):,.1f}" if tenths else f"{int(bar):,}"
    spans: list[Question] = [
        (f"What was the amount of {name} in {years[1]}?", [cells[at][1]], "span", scale),
        (f"What does the line {about} cover?", [LINES[about]], "span", ""),
        (f"What was the main reason that the line {about} {word} in {last}?", [reason], "span", ""),
    ]
    several: list[Question] = [
        (
            f"What was the amount of {name} in {years[0]} and {years[2]}, respectively?",
            [cells[at][0], cells[at][2]],
            "multi-span",
            scale,
        ),
        ("Which items does the table list?", names, "multi-span", ""),
    ]
    counted: list[Question] = [
        (f"How many years did {name} exceed {shown} {scale}?", str(len(above)), "count", ""),
        (f"In which year was {name} the largest?", [str(years[line.index(max(line))])], "span", ""),
        ("How many items does the table list?", "3", "count", ""),
    ]
    sums = [question for question in worked(rng, names, years, values, scale) if not near_tie(question[1])]
    asked = [rng.choice(spans), rng.choice(several), *rng.sample(sums, 2), rng.choice(counted)]
    rows = [["", *map(str, years)], *([name, *line] for name, line in zip(names, cells, strict=True))]
    paragraphs = [{"uid": f"{uid}-{place}", "order": place, "text": text} for place, text in enumerate(texts, 1)]
    return {"table": {"uid": uid, "table": rows}, "paragraphs": paragraphs}, asked


def make(rows: int, seed: int) -> list[dict]:
    rng = random.Random(f"tatqa {seed}")
    made: list[dict] = []
    while len(made) < rows:
        page, asked = context(rng, f"{seed}-{len(made) // 5 + 1:04}")
        for order, (question, answer, kind, scale) in enumerate(asked, 1):
            number = plain(answer) if isinstance(answer, Fraction) else answer
            one = {"order": order, "question": question, "answer": number, "answer_type": kind, "scale": scale}
            made.append(page | {"questions": one})
    return made[:rows]
