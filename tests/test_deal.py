"""How a global batch falls on processes and micro-batches: every item once, alike in length or in tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.step import deal

LENGTHS = [100, 800, 400, 200, 700, 300, 600, 500]


def test_rows_that_are_filled_up_by_hand():
    """Two processes, micro-batches of two, the longest first: 800 700 | 600 500 | 400 300 | 200 100, dealt in turn."""
    assert deal(LENGTHS, 2, 2, 0) == [[1, 6], [2, 3]]
    assert deal(LENGTHS, 2, 2, 1) == [[4, 7], [5, 0]]


def test_rows_that_are_joined_by_hand():
    """To and fro over four places: 800 100, 700 200, 600 300, 500 400: 900 tokens in each."""
    both = [deal(LENGTHS, 2, 2, process, joins_rows=True) for process in (0, 1)]
    assert both == [[[1, 0], [6, 5]], [[4, 3], [7, 2]]]
    assert {sum(LENGTHS[index] for index in group) for own in both for group in own} == {900}


@pytest.mark.parametrize("joins_rows", [False, True])
@given(
    lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=40),
    processes=st.integers(1, 4),
    micro_batch=st.integers(1, 9),
)
def test_every_item_is_dealt_once(joins_rows, lengths, processes, micro_batch):
    dealt = [deal(lengths, processes, micro_batch, process, joins_rows) for process in range(processes)]
    assert len({len(own) for own in dealt}) == 1  # as many micro-batches everywhere
    groups = [group for own in dealt for group in own]
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert max(map(len, groups)) <= micro_batch
    if joins_rows:
        tokens = [sum(lengths[index] for index in group) for group in groups]
        assert max(tokens) - min(tokens) <= max(lengths)
