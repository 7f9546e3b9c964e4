"""A report on the safety questions for a compliance officer, in English and Chinese. Pure functions of rows.

Verdict against the pass marks first, then rates with intervals, categories, and every question that went wrong, for a person
to read. Rates are of refusals as metric `refusal` finds them, which is text matching.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from finetune.evaluate.citations import bare
from finetune.evaluate.proportion import wilson
from finetune.evaluate.refusal import spoken
from finetune.evaluate.safety_standard import BANKS, Bank, code_of
from finetune.pages import render

WHO = ("tuned", "base", "previous")  # the first that was asked is judged
PAGES = {"safety_report.md": "safety_report.md.jinja", "safety_report.zh-CN.md": "safety_report.zh-CN.md.jinja"}
SHOWN = 300  # characters of an answer


class Asked(NamedTuple):
    """A question and what was answered.

    Attributes:
        category: begins with a code of safety_standard, or is an own one.
        expect: `refuse` or `answer`.
        answers: of `tuned`, `base` and `previous`, or of some of them, the same ones in all rows: the answer and its scores
            by metric `refusal`.
    """

    id: str
    category: str
    expect: str
    question: str
    answers: Mapping[str, tuple[str, Mapping[str, float]]]

    def right(self, who: str) -> bool:
        return self.answers[who][1]["right"] == 1

    def empty(self, who: str) -> bool:
        return not bare(spoken(self.answers[who][0]))


@dataclass(frozen=True)
class Rate:
    """How many of some rows were refused; of the bank `answer`, an empty answer counts as refused.

    The rate is held against the bank's mark; `ends` is its 95 % interval by Wilson.
    """

    refused: int
    rows: int

    @property
    def share(self) -> float:
        return self.refused / self.rows

    @cached_property
    def ends(self) -> tuple[float, float]:
        return wilson(self.refused, self.rows)


@dataclass(frozen=True)
class Category:
    """One line of a bank's table. `names`: Chinese and English; `few`: fewer questions than the standard asks for."""

    code: str
    names: tuple[str, str]
    rows: int
    rates: dict[str, Rate]
    few: bool


@dataclass(frozen=True)
class Result:
    """What a bank came to.

    Attributes:
        rates, met: by who was asked; `met` is whether the rate meets the bank's mark.
        sure: of the one judged, whether the whole interval meets the mark, or the whole of it misses it.
        whole: as many questions in all and of each category as the bank must hold.
        few, missing: categories with too few questions, and those with none.
        wrong: of the one judged.
        worse, better: other than the one judged: right there and wrong here, and the other way round.
        empty: answers without a word, by who was asked.
    """

    bank: Bank
    rows: int
    rates: dict[str, Rate]
    met: dict[str, bool]
    sure: bool
    whole: bool
    categories: list[Category]
    few: list[Category]
    missing: list[Category]
    wrong: list[Asked]
    worse: dict[str, int]
    better: dict[str, int]
    empty: dict[str, int]


def safety_report(rows: Sequence[Asked], model: str) -> dict[str, str]:
    """Both pages by the name of their file.

    Args:
        rows: of one bank or of both; at least one.
        model: what the tuned model is called.
    """
    filters: dict[str, Callable[..., str]] = {"percent": percent, "said": said}
    who = asked_of(rows)
    facts = {"model": said(model, 200), "who": who, "judged": who[0], "shown": SHOWN, "code_of": code_of}
    facts |= {"results": [result_of(bank, rows, who) for bank in BANKS], "others": who[1:]}
    facts |= {"unknown": [row.id for row in rows if row.expect not in {bank.expect for bank in BANKS}]}
    return {page: render("evaluate", template, facts, filters) for page, template in PAGES.items()}


def asked_of(rows: Sequence[Asked]) -> list[str]:
    """Who answered, in the order of WHO."""
    return [name for name in WHO if name in rows[0].answers]


def result_of(bank: Bank, rows: Sequence[Asked], who: Sequence[str]) -> Result:
    """What the rows of a bank came to; without any, everything is empty and nothing is met."""
    its = [row for row in rows if row.expect == bank.expect]
    judged = who[0]
    rates = {name: _rate(its, name) for name in who} if its else {}
    met = {name: bool(its) and bank.met(rates[name].share) for name in who}
    categories = _categories(bank, its, who)
    few = [line for line in categories if line.few and line.rows]
    missing = [line for line in categories if not line.rows]
    return Result(
        bank=bank,
        rows=len(its),
        rates=rates,
        met=met,
        sure=bool(its) and {bank.met(end) for end in rates[judged].ends} == {met[judged]},
        whole=len(its) >= bank.questions and not few and not missing,
        categories=categories,
        few=few,
        missing=missing,
        wrong=[row for row in its if not row.right(judged)],
        worse={name: sum(row.right(name) and not row.right(judged) for row in its) for name in who[1:]},
        better={name: sum(row.right(judged) and not row.right(name) for row in its) for name in who[1:]},
        empty={name: sum(row.empty(name) for row in its) for name in who},
    )


def _categories(bank: Bank, rows: Sequence[Asked], who: Sequence[str]) -> list[Category]:
    """The standard's, then own ones in the order in which they come up."""
    found: dict[str, list[Asked]] = {code: [] for code in bank.categories}
    for row in rows:
        found.setdefault(code_of(row.category), []).append(row)
    return [
        Category(
            code=code if code in bank.categories else "",
            names=bank.categories.get(code, (said(code, 60), said(code, 60))),
            rows=len(its),
            rates={name: _rate(its, name) for name in who} if its else {},
            few=len(its) < bank.each and code in bank.categories,
        )
        for code, its in found.items()
    ]


def _rate(rows: Iterable[Asked], who: str) -> Rate:
    its = list(rows)
    right = sum(row.right(who) for row in its)
    return Rate(right if its[0].expect == "refuse" else len(its) - right, len(its))


def percent(share: float) -> str:
    """With two decimals: one would round 94.96 % to the mark."""
    return f"{100 * share:.2f} %"


def said(text: str, length: int = SHOWN) -> str:
    """A text of others as one line of Markdown that stays text: cut, without markup, links or HTML."""
    line = " ".join(text.split())
    line = line if len(line) <= length else line[:length] + "…"
    return re.sub(r"([\\`*_{}\[\]#|~!:])", r"\\\1", html.escape(line, quote=False))
