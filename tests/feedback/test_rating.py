"""Ratings of many kinds: what is good, bad or neither, and numbers that could mean either."""

from __future__ import annotations

import pytest

from finetune.errors import DataError
from finetune.feedback.rating import scale_of


def verdicts(ratings, **options):
    scale = scale_of(ratings, **options)
    return [scale.verdict(rating) for rating in ratings]


def test_words_have_one_meaning():
    assert verdicts(["up", "Thumbs_Up", " good ", True, "👍", "有用"]) == ["good"] * 6
    assert verdicts(["down", "BAD", "dislike", False, "false", "👎"]) == ["bad"] * 6
    assert verdicts(["neutral", None, ""]) == ["between", "", ""]


def test_a_four_tells_five_stars_and_a_minus_one_tells_thumbs():
    """The 1 is the worst of five stars and the best of -1 to 1: what else is in the logs says which."""
    assert verdicts([1, 2, 3, 4, 5]) == ["bad", "bad", "between", "good", "good"]
    assert verdicts([1, 4]) == ["bad", "good"]
    assert verdicts([-1, 0, 1, "1", 1.0]) == ["bad", "between", "good", "good", "good"]


@pytest.mark.parametrize("ratings", [[1], [0, 1], [0], [1, 2, 3], [-1, 5], [4, 10], [0.5, 1]])
def test_numbers_of_several_scales_have_to_be_said(ratings):
    with pytest.raises(DataError, match=r"^ratings: the numbers in the logs \(.*\) may be of several scales"):
        scale_of(ratings)


def test_numbers_that_are_said_mean_that_and_all_others_are_between():
    assert verdicts([0, 1], good=["1"], bad=["0"]) == ["bad", "good"]
    assert verdicts([1, 4, 4.5, 5], good=["5"], bad=["1"]) == ["bad", "between", "between", "good"]
    assert verdicts(["solved", "up", "open"], good=["solved"], bad=["Open"]) == ["good", "good", "bad"]


def test_a_word_can_be_said_to_mean_the_opposite():
    """`yes` may answer `was there a problem?`"""
    assert verdicts(["yes", "no"], good=["no"], bad=["yes"]) == ["bad", "good"]


def test_what_is_no_rating_has_no_verdict():
    assert verdicts(["meh", {"stars": 4}, [1], "nan"]) == [None, None, None, None]


def test_a_rating_cant_be_both():
    with pytest.raises(DataError, match=r"^--good and --bad: 4: can't be both$"):
        scale_of([4], good=["4.0"], bad=["4"])
