"""docs/results.md: what it says is what results.json holds, and its cells are means with the hull of the seeds' intervals."""

from __future__ import annotations

import json

import pytest

from finetune.inputs import known_scores
from finetune.recipefile import load_recipe
from scripts.results_page import PAGES, STORE, cells, cost, page
from scripts.results_tasks import ALL, DATA
from tests.conftest import ROOT


def run(base: float, tuned: float, **more) -> dict:
    ends = {
        "base": [base, base],
        "tuned": [tuned - 0.1, tuned + 0.1],
        "difference": [tuned - base - 0.1, tuned - base + 0.2],
    }
    return {
        "base": {"f1": base},
        "tuned": {"f1": tuned},
        "intervals": {who: {"f1": its} for who, its in ends.items()},
    } | more


def test_cells_by_hand():
    """Base 0 in both; tuned 0.4 and 0.6, each ± 0.1: mean 0.5, hull 0.3 to 0.7; difference + 0.5, hull 0.3 to 0.8."""
    runs = [run(0.0, 0.4), run(0.0, 0.6)]
    assert cells(runs, "f1") == "0.000 [0.000, 0.000] | 0.500 [0.300, 0.700] | +0.500 [+0.300, +0.800]"


def test_cost_is_of_medians():
    runs = [
        run(0, 1, train_rows=100, rows=20, steps=5, batch=16, train_s=seconds, score_s=7.6, peak_gib=3.14)
        for seconds in (10.0, 90.0, 30.0)
    ]
    assert cost(runs) == "100, 20 | 5 x 16 | 30 | 8 | 3.1"


@pytest.mark.parametrize("at", range(len(PAGES)))
def test_the_pages_are_those_of_the_file(at):
    found = json.loads(STORE.read_text(encoding="utf-8"))
    assert (STORE.parent / PAGES[at]).read_text(encoding="utf-8") == page(found, at)


@pytest.mark.slow
def test_every_task_names_scores_that_it_has():
    """On the shipped sample; where the data lies, its settings are right for it too."""
    from finetune.inputs import load_data

    for task in ALL:
        there = not task.data or (DATA / task.data).exists()
        recipe = load_recipe(ROOT / "recipes" / task.recipe, task.settings if there else ())
        if there:
            assert {task.score, *task.beside} <= set(known_scores(load_data(recipe))), task.name
        assert all(text[0] and text[1] for text in (task.what, task.source, task.published))
