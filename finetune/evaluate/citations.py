"""Scores of answers that cite passages, and of those that should say that no passage holds the answer. Pure functions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from finetune.data.template import Metric

_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_NUMBERS = re.compile(r"[\[【]\s*(\d{1,4}(?:\s*[,、;~-]\s*\d{1,4})*)\s*[\]】]")
_ARTICLES = re.compile(r"《([^《》]+)》|第([0-9零〇一二三四五六七八九十百千两]{1,9})条(?:之([一二三四五六七八九十]))?")
_KEPT = re.compile(r"((?<=\d)\.(?=\d)|(?<!\w)-(?=\d)|[%‰°])|[\W_]")
_LAW = re.compile(r"\s|^中华人民共和国")
_PIECES = re.compile(r"[a-z]+(?:'[a-z]+)?|-?\d+(?:\.\d+)?[%‰]?|[^\x00-\x7f]")
_NEEDED = re.compile(r"\d|[不未无非免禁]|^(?:not?|never|without|nor|except)$|n't$")
SUPPORT = "citation_support"
ENOUGH = 0.8  # of the pieces of a longer answer
LONGER = 8  # pieces from which an answer may be in other words than the passage
_NUMERAL = "0-9.零〇一二三四五六七八九十百千万亿两"


def citations(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """What is cited, whether it should have been answered at all, and the answer itself.

    A reference that is one of `metric.refusals` asks for a refusal; an answer that contains one of them refuses.

    Returns:
        `all_right`: refused where it should be; else answered, the same text, the same passages cited.
        Of references that answer: `answer_exact` and `answer_contained` (without citations, case, width, spaces and
        punctuation), and, of those that cite, `citation_precision`, `citation_recall`, `citation_f1` (0 where nothing
        is cited). `answerable`: refused or answered as it should be; of references that answer the same as
        `answers_when_it_should` (what it misses are wrong refusals), of the others as `refuses_when_it_should` (what it
        misses are made-up answers).
    """
    given, wanted = cited(answer, metric.cites), cited(reference, metric.cites)
    said, right = bare(without(answer, metric.cites)), bare(without(reference, metric.cites))
    refusals = [bare(text) for text in metric.refusals]
    refused, to_refuse = (any(holds(text, refusal) for refusal in refusals) for text in (said, right))
    decided = float(refused == to_refuse)
    if to_refuse:
        return {"all_right": decided, "answerable": decided, "refuses_when_it_should": decided}
    exact = said == right
    scores = {
        "all_right": float(exact and given == wanted),
        "answer_exact": float(exact),
        "answer_contained": float(not refused and holds(said, right)),
    }
    if wanted:
        both = len(given & wanted)
        scores["citation_precision"] = both / len(given) if given else 0.0
        scores["citation_recall"] = both / len(wanted)
        scores["citation_f1"] = 2 * both / (len(given) + len(wanted))
    return scores | {"answerable": decided, "answers_when_it_should": decided}


def citation_support(answer: str, reference: str, passages: Sequence[str], metric: Metric) -> dict[str, float]:
    """Whether the passages that are cited say what the answer says, whichever the reference cites.

    Args:
        passages: as they were shown, in order.

    Returns:
        Of references that cite, `citation_support`: of the passages cited, the share that `bears_out` the answer; 0 for one
        that was not shown, and where nothing is cited, said or answered.
    """
    if not cited(reference, metric.cites):
        return {}
    given, said = cited(answer, metric.cites), bare(without(answer, metric.cites))
    refused = any(holds(said, bare(text)) for text in metric.refusals)
    if not given or not said or refused:
        return {SUPPORT: 0.0}
    shown = [_named(name, passages, metric.cites) for name in given]
    return {SUPPORT: sum(text is not None and bears_out(bare(text), said) for text in shown) / len(given)}


def bears_out(passage: str, said: str) -> bool:
    """Whether a passage holds what is said: its text; or, of LONGER ones, ENOUGH of its pieces, with every number and negation.

    Pieces are words of ASCII letters, numbers, and pairs of neighbouring other characters. Their share is the coverage of
    Grusky, Naaman and Artzi (arXiv 1804.11283, section 3), with pairs because single Chinese characters are in most passages.
    It tells neither who does what nor an inference.

    Args:
        passage, said: as `bare` gives them.
    """
    if holds(passage, said):
        return True
    pieces, there = _pieces(said), set(_pieces(passage))
    if len(pieces) < LONGER or any(piece not in there for piece in pieces if _NEEDED.search(piece)):
        return False
    return sum(piece in there for piece in pieces) >= ENOUGH * len(pieces)


def _pieces(text: str) -> list[str]:
    found = [*_PIECES.finditer(text)]
    single = [match[0] for match in found if match[0].isascii()]
    pairs = [
        one[0] + other[0]
        for one, other in pairwise(found)
        if one.end() == other.start() and not one[0].isascii() and not other[0].isascii()
    ]
    return single + pairs


def _named(name: str, passages: Sequence[str], style: str) -> str | None:
    """The passage that a citation names; an article is that of the passage's first mention of one. None: not shown."""
    if style == "numbers":
        return passages[int(name) - 1] if 0 < int(name) <= len(passages) else None
    law, _, number = name.rpartition(" ")
    for text in passages:
        plain = unicodedata.normalize("NFKC", text)
        first = next((match for match in _ARTICLES.finditer(plain) if not match[1]), None)
        own = cited(first[0], style) if first else frozenset()
        if own == {f" {number}"} and law in _LAW.sub("", plain):
            return text
    return None


def cited(text: str, style: str) -> frozenset[str]:
    """What a text cites.

    Args:
        style: `numbers` ([2], 【2】, [1, 3], [1-3]: "1", "2", "3"), or `articles` (《矿山安全法》第十条, 第32条: "矿山安全法 10",
            " 32"; an article without a law is of the law named before it).
    """
    plain = unicodedata.normalize("NFKC", text)
    if style == "numbers":
        return frozenset(str(number) for found in _NUMBERS.findall(plain) for number in _listed(found))
    law, names = "", set()
    for title, number, of in _ARTICLES.findall(plain):
        if title:
            law = re.sub(r"\s|^中华人民共和国", "", title)
        else:
            names.add(f"{law} {_value(number)}" + (f".{_value(of)}" if of else ""))
    return frozenset(names)


def without(text: str, style: str) -> str:
    """The text without its citations."""
    plain = unicodedata.normalize("NFKC", text)
    return (_NUMBERS if style == "numbers" else _ARTICLES).sub("", plain)


def bare(text: str) -> str:
    """Without case, width and punctuation, and without spaces but one between two words of ASCII letters and digits.

    What makes a number stays: its point, its sign, percent; commas of thousands go.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\N{MINUS SIGN}", "-")
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", plain)
    spaced = " ".join(_KEPT.sub(lambda match: match[1] or " ", plain).split())
    return re.sub(r"(?<![a-z0-9%]) +| +(?![a-z0-9-])", "", spaced)


def holds(text: str, part: str) -> bool:
    """Whether bare text holds another, not as a piece of a longer word or number (五万元 is not in 十五万元)."""
    if not part:
        return not text
    before = f"(?<![{_NUMERAL}])" if re.match(f"[{_NUMERAL}]", part) else "(?<![a-z0-9])" if part[0].isascii() else ""
    last = part[-1]
    after = f"(?![{_NUMERAL}%‰])" if re.match(f"[{_NUMERAL}]", last) else "(?![a-z0-9])" if last.isascii() else ""
    return re.search(before + re.escape(part) + after, text) is not None


def _listed(text: str) -> list[int]:
    """`1, 3-5` as 1, 3, 4, 5; a range of more than a hundred is its two ends."""
    numbers: list[int] = []
    for item in re.split(r"[,、;]", text):
        ends = [int(end) for end in re.split(r"[~-]", item)]
        numbers += range(ends[0], ends[-1] + 1) if 0 <= ends[-1] - ends[0] <= 100 else ends
    return numbers


def _value(numeral: str) -> int:
    """三十二, 一百零五, 十 or 32 as a number."""
    if numeral.isdecimal():
        return int(numeral)
    total, digit = 0, 0
    for character in numeral:
        if character in _UNITS:
            total += (digit or 1) * _UNITS[character]
            digit = 0
        else:
            digit = 10 * digit + _DIGITS.get(character, 0) if digit else _DIGITS.get(character, 0)
    return total + digit
