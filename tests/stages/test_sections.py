"""What recipes of the preference stages may say, and what is refused because it would have no effect or another meaning."""

from __future__ import annotations

import json

import pytest

from finetune.data.chat import IGNORED, Example
from finetune.data.items import LabelledItems
from finetune.errors import DataError, RecipeError
from finetune.inputs import load_data
from tests.stages.made import load_tiny

REFUSED = [
    ("dpo", "dpo.label_smoothing=0.1 dpo.loss_type=ipo", "for loss_type sigmoid and sigmoid_norm, not ipo"),
    ("dpo", "dpo.label_smoothing=0.1 dpo.loss_type=hinge", "for loss_type sigmoid and sigmoid_norm, not hinge"),
    ("dpo", "dpo.label_smoothing=0.5", "dpo.label_smoothing: input should be less than 0.5"),
    ("dpo", "dpo.loss_type=slic", "dpo.loss_type: input should be 'sigmoid', 'sigmoid_norm', 'hinge' or 'ipo'"),
    ("dpo", "dpo.beta=0", "dpo.beta: input should be greater than 0"),
    ("orpo", "orpo.precompute_ref_log_probs=true", "orpo.precompute_ref_log_probs: unknown key"),
    ("simpo", "simpo.precompute_ref_log_probs=true", "simpo.precompute_ref_log_probs: unknown key"),
    ("kto", "dpo.beta=0.1", "dpo: is for stage dpo; this recipe's stage is kto"),
    ("dpo", "data.packing=true", "data.packing: answers are compared, a row each; set it to false"),
    ("kto", "data.padding_free=true", "data.padding_free: answers are compared, a row each; set it to false"),
    ("simpo", "data.train_on=all", "data.train_on: all: answers are compared, not prompts; use assistant"),
    ("orpo", "data.too_long=truncate_prompt", "data.too_long: truncate_prompt: answers are compared; use error or drop"),
    ("kto", "data.too_long=split_turns", "use error or drop or truncate_prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "settings", "problem"), REFUSED, ids=[settings for _, settings, _ in REFUSED])
def test_refused(stage, settings, problem, tiny_base, tmp_path):
    with pytest.raises(RecipeError) as error:
        load_tiny(tmp_path, tiny_base, stage, *settings.split())
    assert any(problem in line for line in error.value.problems), error.value.problems


def test_defaults(tiny_base, tmp_path):
    """TRL's, but for simpo: its paper's beta."""
    found = {
        stage: load_tiny(tmp_path, tiny_base, stage).settings.model_dump() for stage in ("dpo", "orpo", "simpo", "kto")
    }
    assert found == {
        "dpo": {
            "loss_type": "sigmoid", "beta": 0.1, "label_smoothing": 0.0, "rpo_alpha": 0.0,
            "precompute_ref_log_probs": False, "prefix_sharing": True,
        },
        "orpo": {"beta": 0.1, "prefix_sharing": True},
        "simpo": {"beta": 2.0, "gamma": 0.5, "prefix_sharing": True},
        "kto": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0, "precompute_ref_log_probs": False},
    }  # fmt: skip


@pytest.mark.parametrize(("label", "kind"), [(True, "good (true)"), (False, "bad (false)")])
def test_held_out_answers_of_one_kind_are_refused(label, kind, tiny_base, tmp_path):
    recipe = load_tiny(tmp_path, tiny_base, "kto")
    file = tmp_path / "rows.jsonl"
    rows = [json.loads(line) | {"label": label} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_data(recipe)
    assert error.value.problems == [f"held-out rows: all 6 are labelled {kind}; both kinds are needed to compare them"]


def labelled(prompt: str, answer: str, mark: float) -> Example:
    ids = tuple(map(ord, prompt + answer))
    return Example(ids, (IGNORED,) * len(prompt) + ids[len(prompt) :], "row", (mark,))


def test_mismatched_answers():
    """Two answers to a, one to b, one to c: each prompt with the answer of the nearest row before that asks otherwise.

    Row 1 (a) takes row 4's, row 2 (a) too (row 1 asks the same), row 3 (b) row 2's, row 4 (c) row 3's, cut at five ids.
    """
    rows = [labelled("aa", "1", 1), labelled("aa", "22", 0), labelled("b", "3333", 1), labelled("c", "4", 0)]
    items = LabelledItems(rows, 5)
    assert ["".join(map(chr, item.mismatched.ids)) for item in items] == ["aa4", "aa4", "b22", "c3333"]
    assert [item.mismatched.trained for item in items] == [1, 1, 2, 4]
    assert [item.length for item in items] == [3, 4, 5, 5]
    assert [item.marks for item in items] == [(1,), (0,), (1,), (0,)]
    assert ["".join(map(chr, item.mismatched.ids)) for item in LabelledItems(rows, 4)] == ["aa4", "aa4", "b22", "c333"]
    assert items[3].marked(-1.5, -2.5).marks == (0, -1.5)
    assert items[3].marked(-1.5, -2.5).mismatched.marks == (-2.5,)


def test_one_prompt_leaves_nothing_to_mismatch():
    items = LabelledItems([labelled("a", "1", 1), labelled("a", "2", 0)], 9)
    assert [item.mismatched.trained for item in items] == [0, 0]
