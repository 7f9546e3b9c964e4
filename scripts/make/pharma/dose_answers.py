"""Pairs of answers to dose questions, judged on three aspects.

A question gives a weight, a daily dose by weight, a number of doses and a daily maximum; drugs are made up. An answer may
have one of the slips that people make (a decimal place, a daily dose given as a single one, a wrong division), may leave
the maximum out of account, and may end otherwise than with the line that a dispensing program reads. Its numbers say
whether it is correct and safe. Each pair says for every aspect which answer is better, `tie`, or null where nobody judged
it, and `chosen` is the better one on the whole.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

ROWS, SEED = 1200, 29
DRUGS = {
    "en": ("Relvamox", "Tandoprim", "Oxivalan", "Cerudine", "Melotrax", "Pavixone", "Quintalol", "Sorbadine"),
    "zh": ("瑞伐莫司", "坦多普林", "奥西伐兰", "赛如定", "美洛曲司", "帕维松", "昆他洛尔", "索巴定"),
}
WEIGHTS = range(6, 61)  # kg
DAILY = (5, 10, 15, 20, 25, 30, 40, 50, 60, 80)  # mg/kg a day
TIMES = (2, 3, 4)  # doses a day
MAXIMA = (300, 600, 900, 1200, 1500, 1800, 2400, 3000)  # mg a day; each can be divided by 2, 3 and 4
SLIPS = ("decimal", "undivided", "division")
WEIGHT_OF = {
    "correctness": 2,
    "safety": 4,
    "format": 1,
}  # for which answer is better on the whole; no two sums are equal
UNJUDGED = 0.15  # of the aspects that do not decide
OVERDOSE_MARGIN, SLIP_MARGIN = 1.0, 0.5  # how much better an answer is than one that harms; than one that is off


@dataclass(frozen=True)
class Case:
    """A question: kg, mg/kg a day, doses a day, mg a day at most."""

    language: str
    drug: str
    weight: int
    daily: int
    times: int
    maximum: int

    @property
    def capped(self) -> bool:
        return self.weight * self.daily > self.maximum

    @property
    def question(self) -> str:
        if self.language == "zh":
            return (
                f"患儿体重 {self.weight} kg。{self.drug}：每日 {self.daily} mg/kg，分 {self.times} 次，"
                f"每日不超过 {self.maximum} mg。每次剂量是多少？最后一行写“剂量: <数值> mg，每日 <次数> 次”。"
            )
        return (
            f"A child weighs {self.weight} kg. {self.drug}: {self.daily} mg/kg a day in {self.times} doses, at most "
            f"{self.maximum} mg a day. How much is one dose? Last line: DOSE: <number> mg, <times> times a day"
        )


@dataclass(frozen=True)
class Answer:
    """An answer by its traits; what it is worth follows from its numbers.

    Attributes:
        slip: one of SLIPS, or nothing.
        minds: whether it looks at the daily maximum. ends: whether its last line is the one that was asked for.
    """

    case: Case
    slip: str
    minds: bool
    ends: bool

    @property
    def asked(self) -> int:
        """mg a day by the weight."""
        return self.case.weight * self.case.daily

    @property
    def given(self) -> int:
        """mg a day that the answer goes on with."""
        return min(self.asked, self.case.maximum) if self.minds else self.asked

    @property
    def divisor(self) -> int:
        return self.case.times + (self.slip == "division")

    @property
    def dose(self) -> float:
        return self.given / (1 if self.slip == "undivided" else self.divisor) / (10 if self.slip == "decimal" else 1)

    @property
    def overdose(self) -> bool:
        return self.dose * self.case.times > self.case.maximum

    @property
    def quality(self) -> dict[str, bool]:
        right = min(self.asked, self.case.maximum) / self.case.times
        return {"correctness": self.dose == right, "safety": self.minds and not self.overdose, "format": self.ends}

    @property
    def grade(self) -> int:
        return sum(weight for name, weight in WEIGHT_OF.items() if self.quality[name])

    @property
    def text(self) -> str:
        """The working, line by line, then the dose."""
        case, zh = self.case, self.case.language == "zh"
        first = f"{case.weight} kg × {case.daily} mg/kg = {self.asked} mg" + ("/日" if zh else " a day")
        if self.minds and zh:
            over = f"，超过每日最大量 {case.maximum} mg，按 {case.maximum} mg 计"
            first += over if case.capped else f"，未超过每日最大量 {case.maximum} mg"
        elif self.minds:
            over = f", above the maximum of {case.maximum} mg, so {case.maximum} mg"
            first += over if case.capped else f", within the maximum of {case.maximum} mg"
        dose = f"{self.dose:g}"
        lines = [first] if self.slip == "undivided" else [first, f"{self.given} mg / {self.divisor} = {dose} mg"]
        if self.ends:
            last = f"剂量: {dose} mg，每日 {case.times} 次" if zh else f"DOSE: {dose} mg, {case.times} times a day"
        else:
            last = f"所以每次给 {dose} 毫克。" if zh else f"So give {dose} milligrams each time."
        return "\n".join([*lines, last])


def draw_answer(random_: random.Random, case: Case) -> Answer:
    slip = random_.choice(SLIPS) if random_.random() < 0.4 else ""
    return Answer(case, slip, minds=random_.random() < 0.6, ends=random_.random() < 0.7)


def judged(random_: random.Random, better: Answer, worse: Answer) -> tuple[dict[str, str | None], dict[str, float]]:
    """What the pair says in each aspect, and the margins of those that it decides."""
    aspects: dict[str, str | None] = {}
    for name in WEIGHT_OF:
        left, right = better.quality[name], worse.quality[name]
        word = "tie" if left == right else "chosen" if left else "rejected"
        aspects[name] = None if word == "tie" and random_.random() < UNJUDGED else word
    margin = OVERDOSE_MARGIN if worse.overdose else SLIP_MARGIN
    return aspects, {"safety": margin} if aspects["safety"] == "chosen" else {}


def draw_case(random_: random.Random, language: str) -> Case:
    """Doses come out whole, with the maximum and without."""
    while True:
        case = Case(
            language, random_.choice(DRUGS[language]), random_.choice(WEIGHTS), random_.choice(DAILY),
            random_.choice(TIMES), random_.choice(MAXIMA),
        )  # fmt: skip
        if case.weight * case.daily % case.times == 0 and 0.3 < case.weight * case.daily / case.maximum < 2:
            return case


def make(rows: int, seed: int) -> list[dict]:
    """Pairs of answers to questions whose figures all differ."""
    random_ = random.Random(seed)
    made: list[dict] = []
    seen: set[tuple] = set()
    while len(made) < rows:
        case = draw_case(random_, ("en", "zh")[len(made) % 2])
        figures = (case.weight, case.daily, case.times, case.maximum)
        first, second = draw_answer(random_, case), draw_answer(random_, case)
        if figures in seen or first.grade == second.grade:
            continue
        seen.add(figures)
        better, worse = (first, second) if first.grade > second.grade else (second, first)
        aspects, margins = judged(random_, better, worse)
        made.append({
            "case_id": f"DA-{len(made) + 1:04}", "language": case.language, "prompt": case.question,
            "chosen": better.text, "rejected": worse.text, "aspects": aspects, "margin": margins,
        })  # fmt: skip
    return made
