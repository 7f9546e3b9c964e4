"""Entities and relations that an answer lists, against those of the reference. Pure functions of text."""

from __future__ import annotations

import json
from collections import Counter

from finetune.data.metric import Metric
from finetune.evaluate.corpus import FAMILIES, UNNAMED, counts

Mention = tuple[str, ...]  # type and text, or type, head and tail
KEYS = {"entities": ("type", "text"), "relations": ("type", "head", "tail")}  # of an object in form json


def mentions(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """Metrics `entities` and `relations`: right is what has type and text as the reference has them, whatever the order.

    One line each: `type<separator>text`, `type<separator>head<between>tail`; or (form json) a list of objects with the
    keys of KEYS. White space within is one space; case counts. A line that is `nothing` lists none. What can't be read
    so is wrong. With `types`, what has another type counts on neither side.

    Returns:
        Counts by type (evaluate/corpus.py makes the corpus' scores of them); `PREFIX_exact`: the same mentions and no
        other; `PREFIX_row_f1`: F1 of this row alone, 1 where neither lists any.
    """
    given, wanted = (_counted(_read(text, metric), metric) for text in (answer, reference))
    prefix = FAMILIES[metric.name]
    same = (Counter(given) & Counter(wanted)).total()
    both = len(given) + len(wanted)
    return counts(metric.name, given, wanted) | {
        f"{prefix}_exact": float(Counter(given) == Counter(wanted)),
        f"{prefix}_row_f1": 2 * same / both if both else 1.0,
    }


def _counted(found: list[Mention], metric: Metric) -> list[Mention]:
    return [mention for mention in found if mention[0] in metric.types] if metric.types else found


def _read(text: str, metric: Metric) -> list[Mention]:
    if metric.form == "json":
        return _from_json(text, metric)
    return [_from_line(line, metric) for line in text.splitlines() if _tidy(line) not in ("", _tidy(metric.nothing))]


def _from_line(line: str, metric: Metric) -> Mention:
    name, found, rest = line.partition(metric.separator)
    parts = [rest]
    if metric.name == "relations":
        head, between, tail = rest.partition(metric.between)
        found, parts = found and between, [head, tail]
    whole = [_tidy(part) for part in (name, *parts)]
    return tuple(whole) if found and all(whole) else (UNNAMED, _tidy(line))


def _from_json(text: str, metric: Metric) -> list[Mention]:
    if _tidy(text) == _tidy(metric.nothing):
        return []
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return [(UNNAMED, _tidy(text))]
    return [_from_object(item, metric) for item in (items if isinstance(items, list) else [items])]


def _from_object(item: object, metric: Metric) -> Mention:
    keys = KEYS[metric.name]
    if isinstance(item, dict) and item.keys() == set(keys) and all(isinstance(value, str) for value in item.values()):
        whole = [_tidy(item[key]) for key in keys]
        if all(whole):
            return tuple(whole)
    return UNNAMED, json.dumps(item, sort_keys=True)


def _tidy(text: str) -> str:
    return " ".join(text.split())
