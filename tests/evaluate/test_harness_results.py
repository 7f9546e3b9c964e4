"""What is read out of lm-eval's results, on results written by hand; and a recipe that asks for lm-eval without it."""

from __future__ import annotations

import pytest
import yaml

from finetune.errors import RecipeError
from finetune.evaluate.harness_results import rows_of, scores_of, stderr_of
from finetune.recipe import resolved
from finetune.recipe_harness import LmEvalSection
from finetune.recipefile import load_recipe

FOUND = {
    "results": {
        "sums": {
            "name": "sums", "alias": "sums", "sample_len": 2,
            "exact_match,strict": 0.5, "exact_match_stderr,strict": 0.25,
            "exact_match,loose": 1.0, "exact_match_stderr,loose": "N/A",
            "word_perplexity,none": 9.0, "f1,none": 0.75,
        }
    },
    "higher_is_better": {"sums": {"exact_match": True, "word_perplexity": False, "f1": True}},
}  # fmt: skip


def sample(question: int, way: str, **scores) -> dict:
    return {"doc_id": question, "filter": way, "metrics": list(scores), **scores}


def test_scores_are_those_of_which_higher_is_better():
    """Perplexity is left out; two ways of reading an answer are two scores; "N/A" is no standard error."""
    scores = scores_of(FOUND, "sums")
    assert scores == {"exact_match,strict": 0.5, "exact_match,loose": 1.0, "f1": 0.75}
    assert stderr_of(FOUND, "sums", scores) == {"exact_match,strict": 0.25}


def test_rows_hold_the_scores_that_are_their_mean():
    """f1 is made of pairs (gold, given), which are no scores of a question; the two ways of a question are one row."""
    samples = {
        "sums": [
            sample(0, "strict", exact_match=1.0), sample(1, "strict", exact_match=0.0),
            sample(0, "loose", exact_match=True), sample(1, "loose", exact_match=True),
            sample(0, "none", f1=(1, 1)), sample(1, "none", f1=(0, 1)),
        ]
    }  # fmt: skip
    assert rows_of(samples, ["sums"], scores_of(FOUND, "sums")) == {
        "sums/0": {"exact_match,strict": 1.0, "exact_match,loose": 1.0},
        "sums/1": {"exact_match,strict": 0.0, "exact_match,loose": 1.0},
    }
    apart = {"one": [sample(0, "none", acc=1.0)], "two": [sample(0, "none", acc=0.0), sample(1, "none", acc=0.0)]}
    assert rows_of(apart, ["one", "two"], {"acc": 0.5}) == {}  # a group's mean of means is no mean of the questions


def test_a_recipe_that_asks_for_lm_eval_says_what_is_missing(monkeypatch):
    from finetune.evaluate import harness_tasks

    monkeypatch.setattr(harness_tasks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"evaluate\.lm_eval: needs lm-eval.*pip install 'finetune\[lm-eval\]'"):
        harness_tasks.load_tasks(LmEvalSection(tasks=("mmlu_anatomy",)))


def test_the_section_of_a_recipe(tiny_recipe, tmp_path):
    """What is resolved loads again; a task listed twice and no task at all are mistakes."""
    recipe = tiny_recipe("evaluate.lm_eval.tasks=[mmlu_anatomy, ceval-valid_law]", "evaluate.lm_eval.include_path=/own")
    assert recipe.evaluate.lm_eval is not None
    assert recipe.evaluate.lm_eval.tasks == ("mmlu_anatomy", "ceval-valid_law")
    assert str(recipe.evaluate.lm_eval.include_path) == "/own"
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(resolved(recipe)), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == recipe
    with pytest.raises(RecipeError, match=r"evaluate\.lm_eval\.tasks: listed twice: mmlu"):
        tiny_recipe("evaluate.lm_eval.tasks=[mmlu, mmlu]")
    with pytest.raises(RecipeError, match=r"evaluate\.lm_eval\.tasks: at least one is needed"):
        tiny_recipe("evaluate.lm_eval.tasks=[]")
