"""Pages of made-up annual reports with questions, in the schema of FinQA (arXiv 2109.00122), four questions a page.

Each question's value is worked out from the page's figures in exact fractions, apart from the program that is its answer.
Wording follows FinQA's: lower case, signs and figures apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from fractions import Fraction

from scripts.make.finance.report_facts import FACTS, FILLER, Asked, money

ROWS, SEED = 1000, 17
A_PAGE = 4
COMPANIES = (
    "aldermoor", "brackwater", "calder vale", "dunmere", "eastholm", "fenwick grid", "garrowby", "hartsea", "ironbridge rail",
    "juniper lane", "kelbrook", "larkhill", "mossgate", "northam", "oakhurst", "pennant", "quayside", "redfell", "stanmer",
    "thornbury", "ullsmere", "vance creek", "westerdale", "yarrow mills",
)  # fmt: skip
STATEMENT = (
    "net sales", "cost of sales", "gross profit", "operating income", "interest expense", "net income", "total assets",
    "long-term debt", "capital expenditures", "research and development", "rental revenue", "deferred tax assets",
)  # fmt: skip
DUE = (
    "operating leases", "purchase obligations", "long-term debt maturities", "capital lease payments", "licence fees due",
)  # fmt: skip
INDICES = ("s&p 500", "s&p 500 utilities", "nasdaq composite", "dow jones industrials", "russell 2000")
Page = tuple[list[list[str]], list[Asked]]


def statement(rng: random.Random, company: str, year: int) -> Page:
    """Lines of three years, with changes, shares, averages and comparisons of them."""
    scale = rng.choice(("millions", "thousands"))
    names = rng.sample(STATEMENT, 3)
    size = 100 if scale == "millions" else 10_000
    values = [[rng.randint(size, 60 * size) for _ in range(3)] for _ in names]
    table = [[f"( in {scale} )", *(str(year - back) for back in range(3))]]
    table += [[name, *(money(value) for value in line)] for name, line in zip(names, values, strict=True)]
    asked: list[Asked] = []
    for at, (name, (new, old, older)) in enumerate(zip(names, values, strict=True), 1):
        where = (f"table_{at}",)
        asked += [
            (f"what was the change in {name} from {year - 1} to {year} , in {scale} ?",
             f"subtract({new}, {old})", Fraction(new - old), where),
            (f"what was the percentage change in {name} from {year - 1} to {year}?",
             f"subtract({new}, {old}), divide(#0, {old})", Fraction(new - old, old), where),
            (f"what was the average {name} over the three years , in {scale} ?",
             f"table_average({name}, none)", Fraction(new + old + older, 3), where),
            (f"what was the highest {name} of the three years , in {scale} ?",
             f"table_max({name}, none)", Fraction(max(new, old, older)), where),
            (f"what was the total {name} from {year - 2} to {year} , in {scale} ?",
             f"table_sum({name}, none)", Fraction(new + old + older), where),
        ]  # fmt: skip
    one, other = rng.sample(range(3), 2)
    a, b = values[one][0], values[other][0]
    where = (f"table_{one + 1}", f"table_{other + 1}")
    asked += [
        (f"in {year} , what was {names[one]} as a portion of {names[other]}?", f"divide({a}, {b})", Fraction(a, b), where),
        (f"in {year} , was {names[one]} greater than {names[other]}?", f"greater({a}, {b})", "yes" if a > b else "no", where),
    ]  # fmt: skip
    return table, asked


def due(rng: random.Random, company: str, year: int) -> Page:
    """Payments by year, with shares of the total and sums."""
    scale = rng.choice(("millions", "thousands"))
    size = 10 if scale == "millions" else 1_000
    amounts = [rng.randint(size, 90 * size) for _ in range(4)]
    total, title = sum(amounts), rng.choice(DUE)
    names = [*(str(year + ahead) for ahead in (1, 2, 3)), "thereafter", "total"]
    table = [[title, f"amount ( in {scale} )"]]
    table += [[name, money(amount)] for name, amount in zip(names, [*amounts, total], strict=True)]
    asked: list[Asked] = [
        (f"what portion of {title} is due in {name}?",
         f"divide({amount}, {total})", Fraction(amount, total), (f"table_{at}", "table_5"))
        for at, (name, amount) in enumerate(zip(names[:3], amounts[:3], strict=True), 1)
    ]  # fmt: skip
    asked += [
        (f"how much more of {title} is due in {names[at]} than in {names[at - 1]} , in {scale} ?",
         f"subtract({amounts[at]}, {amounts[at - 1]})", Fraction(amounts[at] - amounts[at - 1]),
         (f"table_{at}", f"table_{at + 1}"))
        for at in (1, 2)
    ]  # fmt: skip
    first, second, third = amounts[:3]
    asked += [
        (f"what is due under {title} in {names[0]} and {names[1]} together , in {scale} ?",
         f"add({first}, {second})", Fraction(first + second), ("table_1", "table_2")),
        (f"what is the average yearly amount of {title} due from {names[0]} to {names[2]} , in {scale} ?",
         f"add({first}, {second}), add(#0, {third}), divide(#1, const_3)", Fraction(first + second + third, 3),
         ("table_1", "table_2", "table_3")),
        (f"what portion of {title} is due in the first two years?",
         f"add({first}, {second}), divide(#0, {total})", Fraction(first + second, total),
         ("table_1", "table_2", "table_5")),
    ]  # fmt: skip
    return table, asked


def performance(rng: random.Random, company: str, year: int) -> Page:
    """What 100 dollars became, beside an index."""
    names = [company, rng.choice(INDICES)]
    hundredths = [[rng.randint(7_000, 22_000) for _ in range(2)] for _ in names]
    table = [["", *(f"12/31/{year - back}" for back in (2, 1, 0))]]
    table += [
        [name, "$ 100.00", *(money(value, 2) for value in line)] for name, line in zip(names, hundredths, strict=True)
    ]
    asked: list[Asked] = []
    for at, (name, line) in enumerate(zip(names, hundredths, strict=True), 1):
        last, before = (f"{value / 100:.2f}" for value in line[::-1])
        asked += [
            (f"what was the return on $ 100 invested in {name} by the end of {year}?",
             f"subtract({last}, const_100), divide(#0, const_100)", Fraction(line[1] - 10_000, 10_000), (f"table_{at}",)),
            (f"what was the percentage change in the value of {name} from {year - 1} to {year}?",
             f"subtract({last}, {before}), divide(#0, {before})", Fraction(line[1] - line[0], line[0]), (f"table_{at}",)),
        ]  # fmt: skip
    ours, other = (f"{line[1] / 100:.2f}" for line in hundredths)
    asked += [
        (f"did {company} outperform the {names[1]} by the end of {year}?", f"greater({ours}, {other})",
         "yes" if hundredths[0][1] > hundredths[1][1] else "no", ("table_1", "table_2")),
        (f"by how many dollars did {company} and the {names[1]} differ at the end of {year}?", f"subtract({ours}, {other})",
         Fraction(hundredths[0][1] - hundredths[1][1], 100), ("table_1", "table_2")),
    ]  # fmt: skip
    return table, asked


def sentence_of(table: list[list[str]], at: int) -> str:
    """A row of the table as FinQA writes it among the gold evidence."""
    header, row = table[0], table[at]
    cells = (f"the {row[0]} of {name} is {cell} ;" for name, cell in zip(header[1:], row[1:], strict=True))
    return " ".join([header[0], *cells]).strip()


def rounded(value: Fraction | str) -> float | str | None:
    """To five decimals, as `exe_ans` has it; None so near a tie that floats may round otherwise."""
    if isinstance(value, str):
        return value
    beyond = abs(value) * 10**5
    return None if abs(beyond - int(beyond) - Fraction(1, 2)) < Fraction(1, 1000) else float(round(value, 5))


def draw(rng: random.Random, number: int, told: int, fillers: int) -> Iterator[dict]:
    """The questions of one page."""
    company, year = rng.choice(COMPANIES), rng.randint(2004, 2021)
    layout: Callable[[random.Random, str, int], Page] = rng.choice((statement, statement, due, performance))
    table, asked = layout(rng, company, year)
    facts = [fact(rng, year) for fact in rng.sample(FACTS, told)]
    others = [text.format(company=company, year=year) for text in rng.sample(FILLER, fillers)]
    half = fillers // 2
    pre_text, post_text = [facts[0][0], *others[:half]], [*(text for text, _ in facts[1:]), *others[half:]]
    texts = [(question, program, value, (f"text_{place}",))
             for place, (_, questions) in zip((0, len(pre_text)), facts, strict=False)
             for question, program, value in questions]  # fmt: skip
    chosen = [*rng.sample(asked, A_PAGE - 1), rng.choice(texts)]
    filename = f"{''.join(word[:3] for word in company.upper().split())[:4]}/{year}/page_{number}.pdf"
    whole = pre_text + post_text
    for question, program, value, where in chosen:
        if (result := rounded(value)) is None:
            continue
        kinds = (name.split("_") for name in where)
        found = [whole[int(at)] if kind == "text" else sentence_of(table, int(at)) for kind, at in kinds]
        yield {
            "filename": filename,
            "pre_text": pre_text,
            "post_text": post_text,
            "table": table,
            "qa": {
                "question": question,
                "program": program,
                "gold_inds": dict(zip(where, found, strict=True)),
                "exe_ans": result,
            },
        }


def pages(rows: int, seed: int, told: int, fillers: int) -> list[dict]:
    """Rows of pages that all differ, with so many sentences that are asked about and so many that are not."""
    rng = random.Random(f"finqa {seed} {fillers}")
    made: list[dict] = []
    number = 0
    while len(made) < rows:
        number += 1
        made += draw(rng, number, told, fillers)
    return made[:rows]


def make(rows: int, seed: int) -> list[dict]:
    return pages(rows, seed, told=1, fillers=0)
