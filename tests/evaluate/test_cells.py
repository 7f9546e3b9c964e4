"""Tables worked out by hand."""

from __future__ import annotations

import pytest

from finetune.data.metric import Metric
from finetune.evaluate.cells import read_table, table

METRIC = Metric(name="table")
WANTED = "| mine | t | grade |\n|---|--:|:-:|\n| North | 1,200 | 0.5% |\n| South | 30 | - |"
ZERO = {"valid_table": 0, "cell_precision": 0, "cell_recall": 0, "cells_right": 0, "all_cells": 0}


@pytest.mark.parametrize(
    ("answer", "precision", "recall", "f1", "whole"),
    [
        (WANTED, 1, 1, 1, 1),
        ("grade,mine,t\n-,South,30.0\n0.50%,North,1200", 1, 1, 1, 1),
        ("```csv\nmine,t,grade\nNorth,\"1,200\",0.5%\nSouth,30,-\n```", 1, 1, 1, 1),
        ("mine\tt\tgrade\nNorth\t1200\t0.5%\nSouth\t30\t-", 1, 1, 1, 1),
        (f"The table:\n\n{WANTED}\n\nThat is all.", 1, 1, 1, 1),
        ("| mine | t |\n|---|---|\n| North | 1200 |", 1, 1 / 4, 2 / 5, 0),
        ("| mine | t | grade |\n|---|---|---|\n| North | 1200 | 0.5 |\n| South | 31 | - |\n| East | 1 | 1 |",
         1 / 3, 1 / 2, 2 / 5, 0),
    ],
)  # fmt: skip
def test_by_hand(answer, precision, recall, f1, whole):
    """Four cells: two rows by t and grade. 0.5 is not 0.5 %."""
    assert table(answer, WANTED, METRIC) == {
        "valid_table": 1, "cell_precision": pytest.approx(precision), "cell_recall": pytest.approx(recall),
        "cells_right": pytest.approx(f1), "all_cells": whole,
    }  # fmt: skip


@pytest.mark.parametrize(
    "answer", ["", "no table", "a | b", "| a | b |\n|---|\n| 1 | 2 |", "mine,t\nNorth,1,2", "|---|---|", 'a,b\n"x,1']
)
def test_no_table(answer):
    assert table(answer, WANTED, METRIC) == ZERO


def test_rows_by_several_columns_and_twice_the_same():
    text = "year,mine,t\n2023,North,1\n2024,North,2\n2024,North,3"
    assert read_table(text, METRIC, ("mine", "year")) == {
        ("North\x1f2023", "t"): "1", ("North\x1f2024", "t"): "2", ("North\x1f2024\x1f2", "t"): "3",
    }  # fmt: skip
    assert read_table(text, METRIC, ("site",)) == {}
    by_both = Metric(name="table", keys=("mine", "year"))
    assert table("t,year,mine\n1,2023,North\n2,2024,North\n4,2024,North", text, by_both)[
        "cell_recall"
    ] == pytest.approx(2 / 3)


def test_details_of_markdown():
    """An escaped bar, a short row, no outer bars, one column."""
    assert read_table("a | b | c\n--|--|--\n1 | x \\| y", METRIC, ("a",)) == {("1", "b"): "x | y", ("1", "c"): ""}
    assert read_table("| a |\n|---|\n| 1 |\n| 2 |", METRIC, ("a",)) == {("1", "a"): "1", ("2", "a"): "2"}


def test_settings():
    near = Metric(name="table", tolerance=0.01, normalise=("case", "width", "space"))
    answer = "| MINE | Ｔ | Grade |\n|---|---|---|\n| north | 1205 | 0.5% |\n| south | 30 | - |"
    assert table(answer, WANTED, METRIC)["cell_recall"] == 0
    assert table(answer, WANTED, near)["all_cells"] == 1
