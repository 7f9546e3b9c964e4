"""What a row says of its two answers: exact marks, and what is wrong with a malformed row."""

from __future__ import annotations

import pytest

from finetune.data.aspects import UNSAID, check_decided, pair_marks, with_marks
from finetune.data.rows import Sample
from finetune.errors import DataError
from finetune.recipe_stages import RewardSection

ONE = RewardSection()
TWO = RewardSection(aspects={"right": 1.0, "form": 2.0})


def sample(**columns) -> Sample:
    return Sample(columns, (), "f.jsonl:7")


@pytest.mark.parametrize(
    ("columns", "section", "marks"),
    [
        ({}, ONE, (1, 0)),
        ({"margin": 0.5, "aspects": None}, ONE, (1, 0.5)),
        ({"margin": "1.5"}, ONE, (1, 1.5)),  # CSV
        ({"gap": 2}, RewardSection(margin_column="gap"), (1, 2)),
        ({"aspects": {"right": "chosen", "form": "rejected"}, "margin": 1}, TWO, (1, 0, 1, 1)),
        ({"aspects": {"form": "tie", "right": "chosen"}, "margin": 1}, TWO, (1, 0.5, 1, 0)),
        ({"aspects": {"right": None, "form": "rejected"}, "margin": {"form": 2}}, TWO, (UNSAID, 0, 0, 2)),
        ({"aspects": '{"right": "rejected"}', "margin": '{"right": 0.5}'}, TWO, (0, UNSAID, 0.5, 0)),
    ],
)
def test_marks(columns, section, marks):
    assert pair_marks(sample(**columns), section) == marks


@pytest.mark.parametrize(
    ("columns", "section", "problems"),
    [
        ({"margin": -1}, ONE, ["margin: a number of 0 or more is needed, got -1"]),
        ({"margin": "much"}, ONE, ["margin: a number of 0 or more is needed, got 'much'"]),
        ({"margin": True}, ONE, ["margin: a number of 0 or more is needed, got True"]),
        (
            {"aspects": {"right": "chosen"}},
            ONE,
            ["aspects: would not be used; name the aspects in reward.aspects, with their weights"],
        ),
        ({}, TWO, ["aspects: an object of aspect: chosen, rejected, tie or null is needed, got None"]),
        ({"aspects": {"right": None}}, TWO, ["aspects: the pair says nothing of any aspect; leave the row out"]),
        (
            {"aspects": {"right": "better", "from": "chosen"}},
            TWO,
            [
                "aspects: 'from' is not in reward.aspects; did you mean 'form'?",
                "aspects.right: chosen, rejected, tie or null is needed, got 'better'",
            ],
        ),
        (
            {"aspects": {"right": "chosen", "form": "tie"}, "margin": {"form": 1}},
            TWO,
            ["margin.form: 1, but the pair does not say which answer is better in it"],
        ),
    ],
)
def test_malformed_rows(columns, section, problems):
    with pytest.raises(DataError) as caught:
        pair_marks(sample(**columns), section)
    assert caught.value.problems == [f"f.jsonl:7: {problem}" for problem in problems]
    assert with_marks([sample(**columns)], section) == ([], caught.value.problems)


def test_every_aspect_is_decided_somewhere():
    said = [{"right": "chosen"}, {"right": "rejected", "form": "tie"}]
    marked, _ = with_marks([sample(aspects=aspects) for aspects in said], TWO)
    with pytest.raises(DataError) as caught:
        check_decided(marked, TWO, "held-out pairs")
    assert caught.value.problems == [
        "reward.aspects.form: none of the held-out pairs says which answer is better in it"
    ]
