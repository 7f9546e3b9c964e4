"""Read out of lm-eval's results: a task's scores, their standard errors, and what each question came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose
from numbers import Real
from typing import Any

import numpy as np

from finetune.evaluate.metrics import Scores


def scores_of(found: Mapping[str, Any], name: str) -> Scores:
    """A task's or group's scores of which higher is better; lm-eval's key without the way of reading where it is the only one."""
    better = found["higher_is_better"].get(name, {})
    scores = {}
    for key, value in found["results"][name].items():
        metric, comma, _ = key.partition(",")
        if comma and better.get(metric) is True and isinstance(value, Real):
            scores[key.removesuffix(",none")] = float(value)
    return scores


def stderr_of(found: Mapping[str, Any], name: str, scores: Scores) -> Scores:
    """lm-eval's standard errors of these scores, where it has one."""
    errors = {}
    for score in scores:
        metric, _, way = score.partition(",")
        value = found["results"][name].get(f"{metric}_stderr,{way or 'none'}")
        if isinstance(value, Real):  # else "N/A"
            errors[score] = float(value)
    return errors


def rows_of(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], parts: Sequence[str], scores: Scores
) -> dict[str, Scores]:
    """Of every question the scores whose mean is lm-eval's score; others (F1, BLEU, unweighted groups) are left out.

    Args:
        parts: the tasks that the scores are of.
    """
    rows: dict[str, Scores] = {}
    for task in parts:
        for sample in samples[task]:
            row = rows.setdefault(f"{task}/{sample['doc_id']}", {})
            way = "" if sample["filter"] == "none" else f",{sample['filter']}"
            row |= {
                f"{metric}{way}": float(sample[metric])
                for metric in sample["metrics"]
                if isinstance(sample[metric], Real | np.bool_)
            }
    means = {}
    for score, value in scores.items():
        own = [row[score] for row in rows.values() if score in row]
        if own and isclose(float(np.mean(own)), value, rel_tol=1e-9, abs_tol=1e-12):
            means[score] = value
    kept = {key: {name: value for name, value in row.items() if name in means} for key, row in rows.items()}
    return {key: row for key, row in kept.items() if row}


def about_of(found: Mapping[str, Any], reported: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What was asked, for the manifest.

    Args:
        reported: the tasks that each id consists of.
    """
    from importlib.metadata import version

    return {
        "lm_eval": version("lm_eval"),
        "tasks": {
            name: {
                "version": found["versions"].get(name),
                "num_fewshot": found["n-shot"].get(name),
                "questions": sum(found["n-samples"][part]["effective"] for part in parts),
            }
            for name, parts in reported.items()
        },
    }
