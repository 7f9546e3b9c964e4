"""What the recipes of a new pack say, told from the sample's rows: the group, the split, lengths, steps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.rows import Row, Sample
from finetune.data.scaffold import Guessed
from finetune.errors import DataError, did_you_mean

LEAST_ROWS = 10
BATCH = 16  # sequences a step, as the parents have it
CONTEXT = 8192  # tokens that SmolLM2 reads
ANSWER = 2048  # tokens of an answer at most
OF_A_CHAT = 64  # tokens of SmolLM2's chat template around two messages, its default system prompt among them
SHORT = 60  # characters of a group's name
_IDENTIFIER = re.compile(r"(^|_)(id|no|nr|num|number|code|imo|mmsi)$|(编号|编码|代码|号)$", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """Of one task. `group`: whose rows stay on one side of the split, None for none. Lengths in tokens."""

    answer: str
    metric: str
    group: str | None
    rows: int
    eval_rows: int
    max_length: int
    max_new_tokens: int
    max_steps: int
    languages: tuple[str, ...]


def facts_of(guessed: Guessed, group: str | None) -> Facts:
    """Of rows with an answer; about a sixth of them are held out, and lengths are bounds that need no tokenizer.

    A tokenizer of bytes, as SmolLM2's and Qwen's are, makes no more tokens of a text than its UTF-8 has bytes.

    Raises:
        DataError: too few rows.
    """
    samples = guessed.rendered.samples
    count = len(samples)
    eval_rows = min(max(8, round(count / 6)), 200, count // 2)
    answers = max(_bytes(sample.answer) for sample in samples)
    whole = max(sum(_bytes(str(message["content"])) for message in sample.messages) for sample in samples)
    return Facts(
        answer=guessed.answer,
        metric=str(guessed.metric["name"]),
        group=group,
        rows=count,
        eval_rows=eval_rows,
        max_length=min(_up(whole + OF_A_CHAT, 64), CONTEXT),
        max_new_tokens=min(_up(answers + 2, 8), ANSWER),
        max_steps=min(max(-(-3 * (count - eval_rows) // BATCH), 30), 90),
        languages=languages_of(samples),
    )


def check_count(file: str, guessed: Guessed) -> None:
    """Raises DataError for rows that can't be split into some to learn from and some to test on."""
    count, dropped = len(guessed.rendered.samples), guessed.rendered.dropped_rows
    if count < LEAST_ROWS:
        without = f" ({dropped} more have none)" if dropped else ""
        raise DataError(
            f"{file}: {count} rows have an answer{without}; {LEAST_ROWS} are needed to run at all, and some hundred to "
            "learn from"
        )


def check_group(file: str, group: str, guessed: Guessed, rows: Sequence[Row]) -> None:
    """Raises DataError where a column can't be the group."""
    if group == guessed.answer:
        raise DataError(f"{file}: --group: {group} is the answer column; a group is what several rows are about")
    if group in guessed.left_out:
        raise DataError(f"{file}: --group: the values of {group} are not all of one type")
    if group not in guessed.columns:
        near = did_you_mean(group, [key for key in guessed.columns if key != guessed.answer])
        raise DataError(f"{file}: --group: no column {group}{near}")
    kind = guessed.columns[group]["type"]
    if kind in ("list", "object", "table"):
        raise DataError(f"{file}: --group: {group} holds a {kind} in each row; a name or number is needed")
    if len({repr(row.values.get(group)) for row in rows}) == 1:
        raise DataError(f"{file}: --group: all rows have the same {group}; two sides need two groups")


def guess_group(guessed: Guessed) -> str | None:
    """The column with the most values among those that name what several rows are about, as ships or sites do.

    Text without choices, or whole numbers called by what an identifier is; at least 5 values, each in 2 rows on average
    and none in more than a third of all.
    """
    samples = guessed.rendered.samples
    found: dict[str, int] = {}
    for name, rules in guessed.columns.items():
        text = rules["type"] == "str" and "choices" not in rules
        if name == guessed.answer or not (text or (rules["type"] == "int" and _IDENTIFIER.search(name))):
            continue
        values = Counter(_value(sample, name) for sample in samples)
        several = len(values) >= 5 and 2 * len(values) <= len(samples) and 3 * max(values.values()) <= len(samples)
        if several and max(len(str(value)) for value in values) <= SHORT:
            found[name] = len(values) + (len(samples) if text else 0)  # a name before a number
    return max(found, key=lambda name: found[name]) if found else None


def languages_of(samples: Sequence[Sample]) -> tuple[str, ...]:
    """`zh` where a good part of the letters is Chinese, `en` where a good part is Latin; of other scripts nothing is said."""
    text = "".join(str(message["content"]) for sample in samples[:200] for message in sample.messages)
    letters = [character for character in text if character.isalpha()]
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in letters)
    latin = sum(character.isascii() for character in letters)
    return tuple(name for name, count in (("zh", chinese), ("en", latin)) if 5 * count > len(letters))


def _value(sample: Sample, name: str) -> Any:
    return sample.record[name]


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
