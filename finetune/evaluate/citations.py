"""Scores of answers that cite passages, and of those that should say that no passage holds the answer. Pure functions."""

from __future__ import annotations

import re
import unicodedata

from finetune.data.template import Metric

_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_NUMBERS = re.compile(r"[\[【]\s*(\d{1,4}(?:\s*[,、;~-]\s*\d{1,4})*)\s*[\]】]")
_ARTICLES = re.compile(r"《([^《》]+)》|第([0-9零〇一二三四五六七八九十百千两]{1,9})条(?:之([一二三四五六七八九十]))?")
_KEPT = re.compile(r"((?<=\d)\.(?=\d)|(?<!\w)-(?=\d)|[%‰°])|[\W_]")
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
