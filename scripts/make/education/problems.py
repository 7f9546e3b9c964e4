"""School word problems in English and Chinese: figures in their question, steps of one operation each.

A step's operand is a place in the figures (0, 1, ...), the result of an earlier step ("s1") or a constant ("100").
"""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
NAMES = {
    "en": ("Amara", "Ben", "Chloe", "Dmitri", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Keiko", "Liam"),
    "zh": ("小明", "小红", "小刚", "小丽", "乐乐", "天天", "子涵", "雨桐", "浩然", "思远", "佳怡", "晨晨"),
}  # fmt: skip
SHAPES: dict[str, tuple[tuple[int | str, str, int | str], ...]] = {
    "change": ((0, "*", 1), (2, "*", 3), ("s1", "+", "s2"), (4, "-", "s3")),
    "discount": ((0, "*", 1), ("100", "-", 2), ("s1", "*", "s2"), ("s3", "/", "100")),
    "two_legs": ((0, "*", 1), (2, "*", 3), ("s1", "+", "s2")),
    "together": ((0, "+", 1), (2, "/", "s1")),
    "pages": ((0, "/", 1), (0, "-", "s1"), ("s2", "-", 2)),
    "times_as_many": ((0, "*", 1), ("s1", "-", 2), (0, "+", "s1"), ("s3", "+", "s2")),
    "average": ((0, "+", 1), ("s1", "+", 2), ("s2", "/", "3")),
    "fence": ((0, "-", 1), (0, "+", "s1"), ("s2", "*", "2"), ("s3", "*", 2)),
    "saving": ((0, "-", 1), (2, "/", "s1")),
    "boxes": ((0, "*", 1), ("s1", "-", 2), ("s2", "/", 3)),
    "fuel": ((2, "/", 1), ("s1", "*", 0), ("s2", "*", 3)),
    "heads_and_legs": ((0, "*", "2"), (1, "-", "s1"), ("s2", "/", "2")),
    "meeting": ((1, "+", 2), (0, "/", "s1")),
    "growth": ((0, "*", 1), ("s1", "/", "100"), (0, "+", "s2")),
}
RANGES: dict[str, tuple[range, ...]] = {  # of each figure; what does not work out in two decimals is drawn again
    "change": (range(2, 10), range(2, 16), range(2, 10), range(2, 16), range(50, 310, 50)),
    "discount": (range(2, 10), range(20, 160, 5), range(10, 50, 5)),
    "two_legs": (range(2, 6), range(30, 95, 5), range(2, 6), range(30, 95, 5)),
    "together": (range(12, 61), range(12, 61), range(120, 1000)),
    "pages": (range(60, 400), range(3, 9), range(5, 60)),
    "times_as_many": (range(5, 60), range(2, 7), range(2, 30)),
    "average": (range(60, 101), range(60, 101), range(60, 101)),
    "fence": (range(12, 60), range(2, 11), range(3, 26)),
    "saving": (range(20, 91), range(3, 20), range(100, 1000, 5)),
    "boxes": (range(4, 16), range(6, 31), range(2, 20), range(3, 13)),
    "fuel": (range(5, 12), range(100, 101), range(150, 900, 50), range(6, 10)),
    "heads_and_legs": (range(10, 60), range(24, 200, 2)),
    "meeting": (range(60, 900, 10), range(40, 95), range(40, 95)),
    "growth": (range(120, 2000, 20), range(5, 45, 5)),
}
ENGLISH: dict[str, tuple[str, tuple[str, ...]]] = {  # question, and the sentence of each step; `{sum}`: its working
    "change": (
        "{name} buys {0} notebooks at ${1} each and {2} pens at ${3} each, and pays with ${4}. How many dollars of "
        "change are due?",
        ("The notebooks cost {sum} dollars.", "The pens cost {sum} dollars.", "Together that is {sum} dollars.",
         "The change is {sum} dollars."),
    ),
    "discount": (
        "{name} orders {0} chairs at ${1} each for the club and gets {2}% off. What does the order cost in dollars?",
        ("At the full price it is {sum} dollars.", "What is left to pay is {sum} percent.",
         "Percent times price is {sum}.", "So the order costs {sum} dollars."),
    ),
    "two_legs": (
        "{name} drives {0} hours at {1} km/h and then {2} hours at {3} km/h. How many kilometres is that altogether?",
        ("The first part is {sum} km.", "The second part is {sum} km.", "Altogether it is {sum} km."),
    ),
    "together": (
        "One printer makes {0} posters an hour, another one {1}. {name} needs {2} posters. How many hours do both "
        "printers take together?",
        ("In an hour they make {sum} posters.", "They take {sum} hours."),
    ),
    "pages": (
        "{name} has a book of {0} pages in {1} parts of the same length, reads one part on Saturday and {2} more pages on "
        "Sunday. How many pages are left?",
        ("On Saturday {sum} pages are read.", "After that {sum} pages are left.", "After Sunday {sum} pages are left."),
    ),
    "times_as_many": (
        "{name} has {0} stamps. Omar has {1} times as many, and Rita has {2} fewer than Omar. How many stamps do the "
        "three have?",
        ("Omar has {sum} stamps.", "Rita has {sum} stamps.", "The first two have {sum} stamps.",
         "All three have {sum} stamps."),
    ),
    "average": (
        "{name} scored {0}, {1} and {2} points in three tests. What is the average?",
        ("The first two add up to {sum} points.", "All of them add up to {sum} points.", "The average is {sum} points."),
    ),
    "fence": (
        "{name} fences a rectangular garden {0} m long, whose width is {1} m less. A metre of fence costs ${2}. What "
        "does the fence cost in dollars?",
        ("The width is {sum} m.", "Length and width together are {sum} m.", "The fence is {sum} m long.",
         "It costs {sum} dollars."),
    ),
    "saving": (
        "{name} earns ${0} a week from a paper round and spends ${1} of it. How many weeks does it take to save ${2}?",
        ("Every week {sum} dollars are saved.", "It takes {sum} weeks."),
    ),
    "boxes": (
        "{name} unpacks {0} boxes of {1} glasses, finds {2} broken, and deals the rest out evenly to {3} tables. How "
        "many glasses does a table get?",
        ("There are {sum} glasses.", "Whole are {sum} glasses.", "A table gets {sum} glasses."),
    ),
    "fuel": (
        "{name}'s car burns {0} litres of petrol every {1} km. A trip is {2} km long and a litre costs ${3}. What does "
        "the petrol cost in dollars?",
        ("The trip has that distance {sum} times.", "It takes {sum} litres.", "They cost {sum} dollars."),
    ),
    "heads_and_legs": (
        "{name} counts {0} heads and {1} legs in a yard of hens and rabbits. How many rabbits are there?",
        ("If all were hens there would be {sum} legs.", "There are {sum} legs more.", "So there are {sum} rabbits."),
    ),
    "meeting": (
        "{name} and a friend set out towards each other from towns {0} km apart, one at {1} km/h and the other at {2} "
        "km/h. After how many hours do they meet?",
        ("In an hour they come {sum} km nearer.", "They meet after {sum} hours."),
    ),
    "growth": (
        "{name}'s school had {0} pupils last year and has {1}% more this year. How many pupils has it this year?",
        ("Percent times pupils is {sum}.", "So there are {sum} more pupils.", "This year it has {sum} pupils."),
    ),
}  # fmt: skip
CHINESE: dict[str, tuple[str, tuple[str, ...]]] = {
    "change": (
        "{name}买了{0}本笔记本，每本{1}元；又买了{2}支笔，每支{3}元，付了{4}元。应找回多少元？",
        ("笔记本花了{sum}元。", "笔花了{sum}元。", "一共{sum}元。", "找回{sum}元。"),
    ),
    "discount": (
        "{name}为社团订了{0}把椅子，每把{1}元，优惠{2}%。一共要付多少元？",
        ("原价一共{sum}元。", "实付百分数是{sum}。", "相乘得{sum}。", "要付{sum}元。"),
    ),
    "two_legs": (
        "{name}先开了{0}小时，每小时{1}千米，又开了{2}小时，每小时{3}千米。一共开了多少千米？",
        ("前一段{sum}千米。", "后一段{sum}千米。", "一共{sum}千米。"),
    ),
    "together": (
        "甲打印机每小时印{0}张海报，乙打印机每小时印{1}张。{name}需要{2}张，两台一起印要几小时？",
        ("两台每小时印{sum}张。", "需要{sum}小时。"),
    ),
    "pages": (
        "{name}有一本{0}页的书，周六读了全书的{1}分之一，周日又读了{2}页。还剩多少页？",
        ("周六读了{sum}页。", "周六后剩{sum}页。", "最后剩{sum}页。"),
    ),
    "times_as_many": (
        "{name}有{0}张邮票，小军的张数是他的{1}倍，小芳比小军少{2}张。三人一共有多少张？",
        ("小军有{sum}张。", "小芳有{sum}张。", "前两人有{sum}张。", "三人共有{sum}张。"),
    ),
    "average": (
        "{name}三次测验分别得{0}分、{1}分和{2}分。平均多少分？",
        ("前两次共{sum}分。", "三次共{sum}分。", "平均{sum}分。"),
    ),
    "fence": (
        "{name}给长{0}米的长方形菜园围篱笆，宽比长少{1}米，每米篱笆{2}元。一共要多少元？",
        ("宽是{sum}米。", "长与宽的和是{sum}米。", "篱笆长{sum}米。", "一共{sum}元。"),
    ),
    "saving": (
        "{name}每周有{0}元零用钱，花掉{1}元，其余存起来。存够{2}元要几周？",
        ("每周存{sum}元。", "要{sum}周。"),
    ),
    "boxes": (
        "{name}打开{0}箱杯子，每箱{1}个，碎了{2}个，其余平均摆到{3}张桌子上。每张桌子几个？",
        ("杯子共{sum}个。", "完好的{sum}个。", "每张桌子{sum}个。"),
    ),
    "fuel": (
        "{name}家的车耗油{0}升能走{1}千米。一趟路程{2}千米，每升汽油{3}元。汽油要花多少元？",
        ("路程是它的{sum}倍。", "用油{sum}升。", "花费{sum}元。"),
    ),
    "heads_and_legs": (
        "{name}数了数院子里的鸡和兔，共有{0}个头、{1}条腿。兔有几只？",
        ("假设全是鸡，有{sum}条腿。", "多出{sum}条腿。", "兔有{sum}只。"),
    ),
    "meeting": (
        "{name}和朋友从相距{0}千米的两地同时相向而行，一人每小时行{1}千米，另一人每小时行{2}千米。几小时后相遇？",
        ("每小时共行{sum}千米。", "{sum}小时后相遇。"),
    ),
    "growth": (
        "{name}的学校去年有{0}名学生，今年增加了{1}%。今年有多少名学生？",
        ("相乘得{sum}。", "增加了{sum}名。", "今年有{sum}名。"),
    ),
}
WORDS = {"en": ENGLISH, "zh": CHINESE}


@dataclass(frozen=True)
class Problem:
    """A question and the figures in it, in their order."""

    kind: str
    language: str
    figures: tuple[int, ...]
    question: str


def written(value: Fraction) -> str | None:
    """The value in at most two decimals; None where it is not positive or goes on."""
    if value <= 0 or (value * 100).denominator != 1:
        return None
    return f"{float(value):.2f}".rstrip("0").rstrip(".")


def operand(place: int | str, figures: tuple[int, ...], results: list[Fraction]) -> Fraction:
    """The number that an operand of `SHAPES` stands for."""
    if isinstance(place, int):
        return Fraction(figures[place])
    return results[int(place[1:]) - 1] if place.startswith("s") else Fraction(place)


def solve(kind: str, figures: tuple[int, ...]) -> list[tuple[str, str, str, str]] | None:
    """Left, operation, right and result of each step, as they are written; None where one can't be written."""
    results: list[Fraction] = []
    steps = []
    for left, sign, right in SHAPES[kind]:
        a, b = (operand(place, figures, results) for place in (left, right))
        results.append(OPERATIONS[sign](a, b))
        texts = written(a), written(b), written(results[-1])
        if None in texts:
            return None
        steps.append((str(texts[0]), sign, str(texts[1]), str(texts[2])))
    return steps


def problems(rng: random.Random) -> Iterator[Problem]:
    """Problems in English and Chinese by turns, each kind as often; a kind has the same figures once in both."""
    seen: set[tuple[int | str, ...]] = set()
    while True:
        language = ("en", "zh")[len(seen) % 2]
        kind = rng.choice(list(SHAPES))
        figures = draw_figures(rng, kind)
        if (kind, *figures) not in seen:
            seen.add((kind, *figures))
            question = WORDS[language][kind][0].format(*figures, name=rng.choice(NAMES[language]))
            yield Problem(kind, language, figures, question)


def draw_figures(rng: random.Random, kind: str) -> tuple[int, ...]:
    """Figures whose steps work out; in whole numbers, but for money and litres."""
    while True:
        figures = tuple(rng.choice(values) for values in RANGES[kind])
        steps = solve(kind, figures)
        if steps and (kind in ("discount", "fuel") or all("." not in step[3] for step in steps)):
            return figures


def sentence(problem: Problem, number: int, step: tuple[str, str, str, str], marked: bool) -> str:
    """Step `number` (from 0) in words; `marked` with GSM8K's calculator annotation, <<2*3=6>>."""
    left, sign, right, result = step
    if problem.language == "zh":
        shown = f"{left}{sign.translate(str.maketrans('*/', '×÷'))}{right}="
    else:
        shown = f"{left} {sign} {right} = "
    mark = f"<<{left}{sign}{right}={result}>>" if marked else ""
    return WORDS[problem.language][problem.kind][1][number].format(sum=f"{shown}{mark}{result}")
