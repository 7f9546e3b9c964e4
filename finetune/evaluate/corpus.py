"""Scores of a whole corpus, out of what its rows count: F1 is no mean over rows.

A row counts under `FAMILY:TYPE/tp`, `.../fp` and `.../fn` (FAMILY out of FAMILIES): true positives, false positives, false
negatives. Conventions are those of scikit-learn's precision_recall_fscore_support with labels=None and zero_division=0
(https://scikit-learn.org/stable/modules/generated/sklearn.metrics.precision_recall_fscore_support.html), which seqeval's
(seqeval/metrics/v1.py) are too: types are those that occur in references or answers, and 0 / 0 is 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

FAMILIES = {"entities": "entity", "relations": "relation", "label": "label"}  # what rows count -> names of its scores
KINDS = ("tp", "fp", "fn")
UNNAMED = ""  # the type of what can't be read: wrong, but no type of its own in a macro average
_COUNT = re.compile(rf"({'|'.join(FAMILIES)}):(.*)/({'|'.join(KINDS)})", re.DOTALL)


def counts(family: str, given: Iterable[tuple[str, ...]], wanted: Iterable[tuple[str, ...]]) -> dict[str, float]:
    """A row's counts.

    Args:
        given, wanted: of the answer and of the reference, each a type and what else makes it that one. Each occurrence
            counts, as scorers by position count them: what is given more often than it is wanted is wrong as often.

    Returns:
        Counts above 0; that of the unnamed type always, so that a corpus without any has its scores too.
    """
    answer, reference = Counter(given), Counter(wanted)
    found = {f"{family}:{UNNAMED}/tp": 0.0}
    for kind, which in zip(KINDS, (answer & reference, answer - reference, reference - answer), strict=True):
        for (name, *_), times in which.items():
            key = f"{family}:{name}/{kind}"
            found[key] = found.get(key, 0.0) + times
    return found


def family_of(name: str) -> str | None:
    """The family of a count; None for the name of a score."""
    found = _COUNT.fullmatch(name)
    return found[1] if found else None


def corpus_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Of each family that the rows count, its scores."""
    names = [*dict.fromkeys(name for row in rows for name in row if family_of(name))]
    sums = np.array([sum(row.get(name, 0.0) for row in rows) for name in names])
    return {
        family: {name: float(value) for name, value in of_family(family, names, sums).items()}
        for family in dict.fromkeys(_COUNT.fullmatch(name)[1] for name in names)  # type: ignore[index]
    }


def of_family(
    family: str, names: Sequence[str], sums: np.ndarray, types: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """One family's scores.

    Args:
        names: of the counts. sums: (..., names), over rows. types: which have a score of their own.

    Returns:
        Each (...). `PREFIX_micro_f1`, `PREFIX_precision` and `PREFIX_recall` of all counts together;
        `PREFIX_macro_f1`, the mean of F1 over the types that occur in references or answers, 0 without any;
        `PREFIX_f1/TYPE` of each of `types`, by default those that occur in references; nan where it does not.
    """
    prefix = FAMILIES[family]
    place = {name: index for index, name in enumerate(names)}
    found = [_COUNT.fullmatch(name) for name in names]
    every = [*dict.fromkeys(one[2] for one in found if one and one[1] == family)]
    blank = np.zeros(sums.shape[:-1])
    tp, fp, fn = (
        np.stack(
            [sums[..., place[key]] if (key := f"{family}:{name}/{kind}") in place else blank for name in every], axis=-1
        )
        for kind in KINDS
    )
    f1 = _share(2 * tp, 2 * tp + fp + fn)
    there = (tp + fp + fn > 0) & (np.array(every) != UNNAMED)
    true, false, missed = tp.sum(-1), fp.sum(-1), fn.sum(-1)
    scores = {
        f"{prefix}_micro_f1": _share(2 * true, 2 * true + false + missed),
        f"{prefix}_macro_f1": _share((f1 * there).sum(-1), there.sum(-1)),
        f"{prefix}_precision": _share(true, true + false),
        f"{prefix}_recall": _share(true, true + missed),
    }
    if types is None:
        types = [name for at, name in enumerate(every) if (tp + fn)[..., at].any() and name != UNNAMED]
    own = np.where(tp + fn > 0, f1, np.nan)
    return scores | {f"{prefix}_f1/{name}": own[..., every.index(name)] for name in sorted(types)}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)
