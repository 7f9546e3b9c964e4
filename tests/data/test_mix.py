"""Shares and repeats of sources: exact counts, the same draw for the same seed."""

from __future__ import annotations

from collections import Counter

import pytest

from finetune.data.mix import mix as draw
from finetune.errors import DataError
from finetune.recipe_data import SourceSection

A, B = [f"a{n}" for n in range(10)], [f"b{n}" for n in range(1000)]


def mix(sections: list[SourceSection], items: list[list[str]], seed: int, notes: list[str] | None = None) -> list[str]:
    """The items at the places drawn, source by source."""
    drawn = draw(sections, [len(part) for part in items], seed, notes)
    return [part[place] for part, places in zip(items, drawn, strict=True) for place in places]


def sources(*keys: dict) -> list[SourceSection]:
    return [SourceSection(path=name, **more) for name, more in zip("xyz", keys, strict=False)]


def test_without_weights_every_row_counts_repeat_times():
    notes: list[str] = []
    assert mix(sources({}, {"repeat": 3}), [["a"], ["b", "c"]], 0, notes) == ["a", *["b", "c"] * 3]
    assert notes == [
        "x: 1 rows, used 1 times (14.3 % of the mixture)",
        "y: 2 rows, used 6 times (85.7 % of the mixture)",
    ]
    assert mix(sources({}), [A], 0, notes := []) == A
    assert notes == []  # nothing to say


def test_weights_are_shares_of_the_drawn_rows():
    """10 rows at 1/4 allow 40 in all; with `repeat: 4` 160 in all, each of the 10 used 4 times."""
    once = mix(sources({"weight": 1}, {"weight": 3}), [A, B], seed=1)
    assert once[:10] == A
    assert len(once) == 40
    assert len(set(once)) == 40
    notes: list[str] = []
    often = mix(sources({"weight": 0.25, "repeat": 4}, {"weight": 0.75}), [A, B], 1, notes)
    assert Counter(often[:40]) == dict.fromkeys(A, 4)
    assert len(set(often[40:])) == 120
    assert len(often) == 160
    assert notes[0] == "x: 10 rows, used 40 times (25.0 % of the mixture)"
    assert notes[1] == "y: 1,000 rows, used 120 times (75.0 % of the mixture)"


def test_rounding_gives_the_total_exactly():
    """Three equal shares of 10, 10 and 7 rows: 7 each. 1/7, 2/7, 4/7 of at most 10: 17 in all as 2.43, 4.86, 9.71."""
    equal = sources({"weight": 1}, {"weight": 1}, {"weight": 1})
    assert Counter(item[0] for item in mix(equal, [A, B[:10], ["c"] * 7], 0)) == {"a": 7, "b": 7, "c": 7}
    uneven = sources({"weight": 1}, {"weight": 2}, {"weight": 4})
    assert Counter(item[0] for item in mix(uneven, [A, B, ["c"] * 10], 0)) == {"a": 2, "b": 5, "c": 10}


def test_the_seed_decides_the_draw_and_nothing_else_does():
    weighted = sources({"weight": 1}, {"weight": 3})
    assert mix(weighted, [A, B], 1) == mix(weighted, [A, B], 1)
    assert mix(weighted, [A, B], 1) != mix(weighted, [A, B], 2)
    drawn = mix(weighted, [A, B], 1)[10:]
    assert drawn == sorted(drawn, key=B.index)
    assert mix(weighted, [A, B], 1)[10:] == mix(weighted, [A[::-1], B], 1)[10:]


def test_weights_for_some_sources_or_for_nothing_are_refused():
    with pytest.raises(DataError, match="give it for all sources or for none; without it: y"):
        mix(sources({"weight": 1}, {}), [A, B], 0)
    with pytest.raises(DataError, match=r"weight: no row would be drawn from x$"):
        mix(sources({"weight": 1}, {"weight": 3000}), [A, B], 0)
