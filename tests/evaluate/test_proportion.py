"""Wilson's interval at numbers worked out by hand."""

from __future__ import annotations

from math import sqrt

import pytest

from finetune.evaluate.proportion import wilson


def test_the_formula_s_special_cases():
    """z² = 3.8415. 0 of n ends at z² / (n + z²); n of n begins at n / (n + z²); half of n is 1/2 ± z / (2 sqrt(n + z²))."""
    square = 1.959963984540054**2
    assert wilson(0, 20) == pytest.approx((0, square / (20 + square)))
    assert wilson(20, 20) == pytest.approx((20 / (20 + square), 1))
    half = sqrt(square / (20 + square)) / 2
    assert wilson(10, 20) == pytest.approx((0.5 - half, 0.5 + half))
    assert wilson(0, 0) == (0, 1)


def test_eight_of_ten():
    """(0.8 + z²/20 ± z sqrt(0.016 + z²/400)) / (1 + z²/10): middle 0.71673, half 0.22657."""
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94331), abs=1e-5)


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)
