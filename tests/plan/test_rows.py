"""Lengths, steps and micro-batches by hand."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import RecipeError
from finetune.plan.rows import MicroBatch, Rows, extrapolated, micro_batch, steps
from finetune.schedule import batch_indices, plan


def rows(lengths, trained, items=None):
    lengths, trained = np.array(lengths), np.array(trained)
    return Rows(lengths, trained, (lengths**2).sum(1), items or len(lengths), True, "by hand")


def test_a_micro_batch_is_filled_up():
    """Rows of 5 and 9 tokens: 2 x 9, or 2 x 32 in multiples; joined one row of 14. A pair's answers are two rows."""
    three = rows([[5], [9], [2]], [[1], [4], [1]])
    places = np.array([0, 1])
    assert micro_batch(three, places, 1, False) == MicroBatch(2, 9, 14, 5, 25 + 81)
    assert micro_batch(three, places, 32, False).tokens == 64
    assert micro_batch(three, places, 1, True) == MicroBatch(1, 14, 14, 5, 25 + 81)
    pair = rows([[5, 9], [7, 3]], [[1, 2], [3, 1]])
    assert micro_batch(pair, np.array([0, 1]), 1, False) == MicroBatch(4, 9, 24, 7, 25 + 81 + 49 + 9)


def test_steps_are_those_of_training(tiny_recipe):
    """8 rows in batches of 4 by 2: an epoch's two steps read each row once, like lengths together."""
    recipe = tiny_recipe("train.micro_batch_size=2", "train.max_steps=2")
    eight = rows([[n] for n in (3, 4, 5, 6, 7, 8, 9, 10)], [[1]] * 8)
    layout = plan(recipe.train, 8, 1, 16)
    found = list(steps(eight, recipe, layout))
    assert [len(step) for step in found] == [2, 2]
    assert sum(batch.real for step in found for batch in step) == 52
    first = sorted((eight.lengths[i, 0] for i in batch_indices(recipe.seed, 0, 8, 4)), reverse=True)
    assert [batch.width for batch in found[0]] == [first[0], first[2]]


def test_a_sample_stands_for_all_rows(tiny_recipe):
    recipe = tiny_recipe()
    found = extrapolated(recipe, np.array([[4], [6]]), np.array([[1], [2]]), 50.0, False, "2 of 100 rows tokenised")
    assert (found.items, found.exact, found.longest) == (100, False, 6)


def test_packed_rows_are_as_full_as_training_packs_them(tiny_recipe):
    """Budget 64: 40 + 20 and 30 + 30 + 4 fill two rows, five documents; 50 times as many documents are 100 rows."""
    recipe = tiny_recipe("data.packing=true", "data.max_length=64")
    lengths = np.array([[40], [20], [30], [30], [4]])
    found = extrapolated(recipe, lengths, np.ones_like(lengths), 50.0, False, "sampled")
    assert sorted(found.lengths[:, 0]) == [60, 64]
    assert sum(found.squares) == sum(lengths**2)
    assert found.items == 100


def test_a_smaller_max_length_cuts_or_drops():
    """Of 10 and 4 tokens (8 and 2 trained) under 5: the first cut to half, or gone; packed there are 14 / 9 as many."""
    two = rows([[10], [4]], [[8], [2]], items=90)
    cut = two.under(5, "split", packed=False)
    assert (cut.lengths.tolist(), cut.trained.tolist(), cut.squares.tolist()) == ([[5], [4]], [[4], [2]], [25, 16])
    dropped = two.under(5, "drop", packed=False)
    assert (dropped.lengths.tolist(), dropped.items) == ([[4]], 45)
    assert two.under(5, "error", packed=True).items == 140
    assert two.under(10, "error", packed=False) is two
    with pytest.raises(RecipeError, match=r"a row has 10 tokens, and data\.too_long is error"):
        two.under(5, "error", packed=False)


@pytest.mark.parametrize("size", [3, 5])
def test_batches_that_do_not_divide_are_the_user_s_mistake(tiny_recipe, size):
    recipe = tiny_recipe(f"train.micro_batch_size={size}")
    with pytest.raises(RecipeError, match=f"train.micro_batch_size: 4 sequences / 1 processes / {size}"):
        plan(recipe.train, 8, 1, 16)
