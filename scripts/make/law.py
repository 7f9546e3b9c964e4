"""Laws in Markdown to articles, and articles to questions with the articles to cite (RAFT, arXiv 2403.10131).

Questions are made of the articles' own words: a number, a period, a fine or an authority is asked for, or a clause is
left out. Each has one gold article; `finetune.data.retrieval` puts it among distractors, or leaves it out.

Laws are official texts, which have no copyright (Copyright Law of the People's Republic of China, article 5). The
articles that the project ships come from https://github.com/LawRefBook/Laws (commit 2f4c5c23716267af9dbebbbbd6cbbf732b101981).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from finetune.data.retrieval import Retrieval, build
from finetune.data.rows import Row

LONGEST = 160  # characters of an article: three of them must fit a small model's context
SETTINGS = Retrieval(distractors=2, without_gold=0.25, then="refuse", folds=8)
N = "[一二三四五六七八九十百千零〇0-9]+"
# What is asked for, and the words that ask for it in its place. The blank of the pattern is the answer.
ASKED = (
    (re.compile(rf"({N}万?元以上{N}万?元以下)的?罚款"), "多少元的罚款"),
    (re.compile(rf"({N}倍以上{N}倍以下)的?罚款"), "多少倍的罚款"),
    (re.compile(rf"({N}(?:个工作日|个?小时|个月|年|日))(?=内|以内|前)"), "多长时间"),
    (re.compile(rf"(?:有效期|任期|期限)[为是]?({N}(?:个月|年|日))"), "多长时间"),
    (re.compile(rf"({N}人以上{N}人以下|{N}人以上)"), "多少人"),
    (re.compile(r"(百分之[一二三四五六七八九十]+)"), "百分之几"),
    (re.compile(r"由([^，；。、：\n（）]{4,24}?)(?=制定|规定|批准|决定|负责|颁发|审批|组织|公布)"), "谁"),
)  # fmt: skip
CLAUSE = re.compile(r"(?<=[，；：、])([^，；：。、（）《》\n]{4,20})(?=[，；。、])")


def shipped_articles(file: Path) -> list[dict]:
    """The articles of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def read_laws(folder: Path) -> Iterator[dict]:
    """Every article of the laws in a folder: `id` is the law's short title and the article's number."""
    for file in sorted(folder.glob("*.md")):
        law = file.name.split("(")[0]
        text = unicodedata.normalize("NFC", file.read_text(encoding="utf-8")).partition("<!-- INFO END -->")[2]
        for part in re.split(r"\n(?=第[一二三四五六七八九十百]+条[\s　])", text)[1:]:
            lines = [line.strip(" 　") for line in part.splitlines() if not line.startswith("#")]
            number, _, first = re.sub(r"[\s　]+", " ", lines[0]).partition(" ")
            body = "\n".join(filter(None, [first, *lines[1:]]))
            if body:
                yield {"id": f"{law}{number}", "text": body}


def questions(article: dict) -> Iterator[dict]:
    """Every question that the article's words give."""
    for sentence in re.findall(r"[^。\n]+。", article["text"]):
        facts = [(match, word) for pattern, word in ASKED for match in pattern.finditer(sentence)]
        for match, word in facts:
            left, right = sentence[: match.start(1)], sentence[match.end(1) :]
            if word.endswith("罚款"):
                word, right = word.removesuffix("的罚款"), "的" + right.removeprefix("的")
            yield _question(article, sentence, "asked", left + word + right.rstrip("。") + "？", match[1])
        for match in CLAUSE.finditer(sentence):
            blank = sentence[: match.start()] + "____" + sentence[match.end() :]
            yield _question(article, sentence, "blank", blank, match[1])


def _question(article: dict, sentence: str, kind: str, question: str, answer: str) -> dict:
    drawn = _hash(question)
    return {
        "question": question,
        "answer": answer,
        "gold": article["id"],
        "kind": kind,
        "language": "en" if drawn[0] % 4 == 0 else "zh",
        "evidence": sentence,
    }


def make_rows(articles: list[dict], count: int, seed: int) -> list[dict]:
    """`count` questions on short articles: all that ask for something, then clauses, at most so many of an article."""
    short = [article for article in articles if len(article["text"]) <= LONGEST]
    found = {row["question"]: row for article in short for row in questions(article)}
    order = sorted(found.values(), key=lambda row: _hash(f"{seed} {row['question']}"))
    taken: Counter[str] = Counter()
    rows: list[dict] = []
    for most in range(1, 9):
        for row in order:
            wanted = row["kind"] == "asked" or taken[row["gold"]] < most
            if wanted and row not in rows and len(rows) < count and _tells(row):
                taken[row["gold"]] += 1
                rows.append(row)
    if len(rows) < count:
        raise SystemExit(f"--rows {count}: there are {len(rows)} questions; ask for fewer")
    rows.sort(key=lambda row: _hash(f"{seed} {row['question']}"))
    numbered = [Row(row, "questions", number) for number, row in enumerate(rows, 1)]
    passages = [Row(article, "articles", number) for number, article in enumerate(short, 1)]
    return build(numbered, passages, SETTINGS)


def _tells(row: dict) -> bool:
    """Whether the question says what it is about: enough words around the gap, no answer that refers elsewhere."""
    rest = re.sub(r"____|\W", "", row["question"])
    refers = re.search(r"第.+条|本法|本条例|前款", row["answer"])
    return len(rest) >= 16 and row["answer"] not in row["question"] and not refers


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
