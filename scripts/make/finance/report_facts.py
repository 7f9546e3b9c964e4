"""Sentences of made-up annual reports: facts with questions on them, and sentences that nobody asks about."""

from __future__ import annotations

import random
from fractions import Fraction

Told = tuple[str, str, Fraction]  # question, program, value
Fact = tuple[str, list[Told]]
Asked = tuple[str, str, Fraction | str, tuple[str, ...]]  # question, program, value, places of its evidence


def money(value: int, hundredths: int = 0) -> str:
    """`$ 1234`, or `$ 12.34` where the value is in hundredths."""
    return f"$ {value / 100:.2f}" if hundredths else f"$ {value}"


def repurchase(rng: random.Random, year: int) -> Fact:
    tenths, cents = rng.randint(11, 240), rng.randint(1_200, 9_900)
    shares, price = f"{tenths / 10:.1f}", f"{cents / 100:.2f}"
    text = f"during {year} , we repurchased {shares} million shares at an average price of $ {price} per share ."
    return text, [
        (f"what was the cost of the shares repurchased in {year} , in millions ?",
         f"multiply({shares}, {price})", Fraction(tenths * cents, 1000)),
    ]  # fmt: skip


def amortization(rng: random.Random, year: int) -> Fact:
    a, b, c = (rng.randint(12, 480) for _ in range(3))
    text = f"amortization expense was $ {a} million , $ {b} million and $ {c} million in {year} , {year - 1} and {year - 2} ."
    return text, [
        (f"what was the average amortization expense from {year - 2} to {year} , in millions ?",
         f"add({a}, {b}), add(#0, {c}), divide(#1, const_3)", Fraction(a + b + c, 3)),
        (f"what was the growth of amortization expense in {year}?", f"subtract({a}, {b}), divide(#0, {b})", Fraction(a - b, b)),
    ]  # fmt: skip


def facility(rng: random.Random, year: int) -> Fact:
    limit = rng.randrange(200, 3_000, 50)
    drawn = rng.randint(10, limit - 10)
    text = f"the facility allows borrowings of $ {limit} million , of which $ {drawn} million was drawn at december 31 , {year} ."
    return text, [
        (f"how much of the facility was available at december 31 , {year} , in millions ?",
         f"subtract({limit}, {drawn})", Fraction(limit - drawn)),
        (f"what portion of the facility was drawn at december 31 , {year}?", f"divide({drawn}, {limit})", Fraction(drawn, limit)),
    ]  # fmt: skip


def taxes(rng: random.Random, year: int) -> Fact:
    income = rng.randint(90, 4_000)
    tax = rng.randint(income // 10, income * 2 // 5)
    text = f"income before taxes was $ {income} million and income taxes were $ {tax} million in {year} ."
    return text, [
        (f"what was the effective tax rate in {year}?", f"divide({tax}, {income})", Fraction(tax, income)),
        (f"what was income after taxes in {year} , in thousands ?",
         f"subtract({income}, {tax}), multiply(#0, const_1000)", Fraction(1000 * (income - tax))),
    ]  # fmt: skip


def acquisition(rng: random.Random, year: int) -> Fact:
    price, goodwill = rng.randint(210, 3_900), rng.randint(20, 200)
    text = f"in {year} , we paid $ {price} million for a competitor , of which $ {goodwill} million was recorded as goodwill ."
    return text, [
        ("what portion of the purchase price was recorded as goodwill?",
         f"divide({goodwill}, {price})", Fraction(goodwill, price)),
        ("what was the purchase price in billions?", f"divide({price}, const_1000)", Fraction(price, 1000)),
    ]  # fmt: skip


FACTS = (repurchase, amortization, facility, taxes, acquisition)
FILLER = (
    "{company} manages its business by region and by product line .",
    "management believes that its cash flows are sufficient for the next twelve months .",
    "the notes to the consolidated statements are part of this report .",
    "goodwill is tested for impairment each year in the fourth quarter of the fiscal year .",
    "actual results may differ from these estimates , and such differences may be material .",
    "the company had 14 manufacturing sites in 9 countries at the end of {year} .",
    "changes in exchange rates affect the results of subsidiaries outside the united states .",
    "the pension plans were closed to new participants in 2003 .",
    "certain amounts of prior years were reclassified to the presentation of {year} .",
    "a 1% ( 1 % ) change in interest rates would not have a material effect on net income .",
    "the board of {company} declared a quarterly dividend of $ 0.25 per share in february {year} .",
    "we are party to lawsuits that arise in the ordinary course of business .",
    "credit losses are provided for from past experience and current conditions .",
    "the table below shows amounts as reported , and should be read with the notes .",
)
