"""Scores of a Markdown or CSV table, cell by cell. Pure functions of text."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal

from finetune.data.metric import Metric
from finetune.evaluate.normalise import normalised

Cells = dict[tuple[str, str], str]  # row's header and column's header -> the cell's text

_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*")
_FENCE = re.compile(r"^[ \t]*```[^\n]*\n(.*?)\n?[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"([-+]?)(\d{1,3}(?:,\d{3})+|\d{1,18})(\.\d{1,18})?\s*(%?)")


def table(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """The answer's table against the reference's; the order of rows and columns does not matter.

    A cell is known by its column's header and its row's: the cells of the columns `keys`, or of the reference's first one.
    Numbers are compared by value (within `tolerance`), texts and headers after `normalise`.

    Returns:
        `valid_table`: the answer has a table; `cell_precision`: share of its cells that are right; `cell_recall`: share
        of the reference's cells that the answer has right; `cells_right`: their harmonic mean (F1); `all_cells`: every
        cell of the reference is right and there is no other.
    """
    header = next(iter(_rows(reference)), [])
    keys = metric.keys or tuple(header[:1])
    given, wanted = (read_table(text, metric, keys) for text in (answer, reference))
    right = sum(_same(given[at], value, metric) for at, value in wanted.items() if at in given)
    either = len(given) + len(wanted)
    return {
        "valid_table": float(bool(given)),
        "cell_precision": right / len(given) if given else 0.0,
        "cell_recall": right / len(wanted) if wanted else 0.0,
        "cells_right": 2 * right / either if either else 0.0,
        "all_cells": float(0 < right == len(given) == len(wanted)),
    }


def read_table(text: str, metric: Metric, keys: Sequence[str]) -> Cells:
    """The cells of a text's first Markdown table, or of CSV (parted by tabs where its first line has one).

    Nothing where there is no table, it lacks one of the columns `keys`, or a row is longer than the header. Of rows, or
    columns, with the same header the second is a second one. Missing cells at a row's end are empty.

    Args:
        keys: headers of the columns that name a row.
    """
    rows = _rows(text)
    if len(rows) < 2 or any(len(row) > len(rows[0]) for row in rows):
        return {}
    columns = _numbered(normalised(cell, metric.normalise) for cell in rows[0])
    keys = [normalised(key, metric.normalise) for key in keys]
    if not keys or not set(keys) <= set(columns):
        return {}
    filled = [dict(zip(columns, row + [""] * (len(columns) - len(row)), strict=True)) for row in rows[1:]]
    headers = _numbered("\x1f".join(normalised(row[key], metric.normalise) for key in keys) for row in filled)
    values = [column for column in columns if column not in keys] or columns
    return {(header, column): row[column] for header, row in zip(headers, filled, strict=True) for column in values}


def _rows(text: str) -> list[list[str]]:
    """The header and the rows of a table; nothing where there is none."""
    return _markdown(text.splitlines()) or _csv(text)


def _markdown(lines: list[str]) -> list[list[str]]:
    """Header and rows of the first table; nothing without a line of dashes below a header of as many cells."""
    for index in range(1, len(lines)):
        header = lines[index - 1]
        if "|" in header and "-" in lines[index] and _RULE.fullmatch(" ".join(lines[index].split())):
            rows = [_cells(header)]
            for line in lines[index + 1 :]:
                if "|" not in line:
                    break
                rows.append(_cells(line))
            return rows if len(_cells(lines[index])) == len(rows[0]) else []
    return []


def _cells(line: str) -> list[str]:
    """`| a | b \\| c |` as a, b | c."""
    line = line.strip().removeprefix("|")
    parts = re.split(r"(?<!\\)\|", line)
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()
    return [part.replace("\\|", "|").strip() for part in parts]


def _csv(text: str) -> list[list[str]]:
    blocks = _FENCE.findall(text)
    text = blocks[0] if len(blocks) == 1 else text
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return []
    try:
        rows = list(csv.reader(lines, delimiter="\t" if "\t" in lines[0] else ",", strict=True))
    except csv.Error:
        return []
    # One column would make a table of any lines.
    return [[cell.strip() for cell in row] for row in rows] if len(rows[0]) > 1 else []


def _numbered(names: Iterable[str]) -> list[str]:
    """Names, those that came up before with their count."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}\x1f{seen[name]}")
    return result


def _same(one: str, other: str, metric: Metric) -> bool:
    mine, theirs = _number(one), _number(other)
    if mine is None or theirs is None:
        return normalised(one, metric.normalise) == normalised(other, metric.normalise)
    near = abs(mine[0] - theirs[0]) <= Decimal(str(metric.tolerance)) * abs(theirs[0])
    return near and mine[1] == theirs[1]


def _number(text: str) -> tuple[Decimal, str] | None:
    """The value, and the percent sign if there is one, of a cell that is nothing but a number."""
    plain = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").strip()
    match = _NUMBER.fullmatch(plain)
    if match is None:
        return None
    return Decimal(f"{match[1]}{match[2].replace(',', '')}{match[3] or ''}"), match[4]
