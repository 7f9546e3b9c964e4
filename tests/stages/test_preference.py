"""The losses of preference training by hand, from log-probabilities whose sums come out even."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from finetune.stages import preference
from finetune.stages.logps import lengths, sequence_logps

LN2, LN3 = log(2), log(3)


def values(tensor: torch.Tensor) -> list[float]:
    return tensor.tolist()


def test_sigmoid():
    """sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4.

    beta 1/2 and margins 2 ln 3, -2 ln 3, 0: - log 3/4, - log 1/4, - log 1/2.
    With smoothing 1/4: - 3/4 log 3/4 - 1/4 log 1/4, - 3/4 log 1/4 - 1/4 log 3/4, and - log 1/2 as before.
    """
    margin = torch.tensor([2 * LN3, -2 * LN3, 0.0])
    assert values(preference.sigmoid(margin, 0.5)) == pytest.approx([log(4 / 3), log(4), LN2])
    expected = [0.75 * log(4 / 3) + 0.25 * log(4), 0.75 * log(4) + 0.25 * log(4 / 3), LN2]
    assert values(preference.sigmoid(margin, 0.5, 0.25)) == pytest.approx(expected)


def test_the_gradient_of_sigmoid():
    """d/dm of - log sigmoid(b m) is - b (1 - sigmoid(b m)): at b = 1/2, m = 2 ln 3, that is - 1/2 * 1/4."""
    margin = torch.tensor([2 * LN3], requires_grad=True)
    preference.sigmoid(margin, 0.5).sum().backward()
    assert values(margin.grad) == pytest.approx([-0.125])


def test_hinge():
    """beta 1/4: max(0, 1 - 1/4 * m) of m = 8, 4, 2, -4 is 0, 0, 1/2, 2."""
    assert values(preference.hinge(torch.tensor([8.0, 4.0, 2.0, -4.0]), 0.25)) == [0.0, 0.0, 0.5, 2.0]


def test_ipo():
    """beta 1/4: 1 / (2 beta) = 2, so (m - 2)^2 of m = 2, 0, -1 is 0, 4, 9."""
    assert values(preference.ipo(torch.tensor([2.0, 0.0, -1.0]), 0.25)) == [0.0, 4.0, 9.0]


def test_odds():
    """p = 3/4 has odds 3 to 1, p = 1/2 even ones, p = 1/4 one to 3; the branch changes at p = 1/2.

    odds_ratio(3/4, 1/4) = - log sigmoid(ln 3 - (-ln 3)) = - log sigmoid(ln 9) = log(10 / 9).
    """
    logps = torch.tensor([log(0.75), log(0.5), log(0.25)], dtype=torch.float64)
    assert values(preference.log_odds(logps)) == pytest.approx([LN3, 0.0, -LN3], abs=1e-12)
    assert preference.odds_ratio(logps[:1], logps[2:]).item() == pytest.approx(log(10 / 9))


def test_odds_near_both_ends():
    """log odds of p = e^-40 are -40 (1 - p is 1), those of p = 1 - 1e-5 are log(99999); certainty stays finite."""
    logps = torch.tensor([-40.0, log(1 - 1e-5), 0.0], dtype=torch.float64, requires_grad=True)
    odds = preference.log_odds(logps)
    assert values(odds)[:2] == pytest.approx([-40.0, log(99999)], rel=1e-9)
    assert values(odds)[2] == pytest.approx(log((1 - 1e-6) / 1e-6), rel=1e-5)
    odds.sum().backward()
    assert values(logps.grad)[:2] == pytest.approx([1.0, 1e5], rel=1e-4)  # d log odds / d log p = 1 / (1 - p)
    assert values(logps.grad)[2] == 0.0


def test_simpo():
    """beta 2, gamma ln 3, means -1 and -1 - ln 3: 2 ln 3 - ln 3 = ln 3, so - log 3/4; the other way round -3 ln 3: log 28."""
    better, worse = torch.tensor([-1.0]), torch.tensor([-1.0 - LN3])
    assert preference.simpo(better, worse, 2.0, LN3).item() == pytest.approx(log(4 / 3))
    assert preference.simpo(worse, better, 2.0, LN3).item() == pytest.approx(log(28))


def test_kto():
    """beta 1/2, kl 1, log-ratios 1 + 2 ln 3: r - kl = 2 ln 3, so sigmoid is 3/4 for a good answer, 1/4 for a bad one.

    Losses w_D * 1/4 and w_U * 3/4 with w_D = 2, w_U = 4; and at r = kl half of the weight.
    """
    ratio = torch.tensor([1 + 2 * LN3, 1 + 2 * LN3, 1.0])
    found = preference.kto(ratio, torch.tensor([True, False, True]), torch.tensor(1.0), 0.5, 2.0, 4.0)
    assert values(found) == pytest.approx([0.5, 3.0, 1.0])


def test_share_preferred():
    better, worse = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-2.0, -2.0, -1.0])
    assert values(preference.share_preferred(better, worse)) == [1.0, 0.5, 0.0]


def test_log_probabilities_of_rows():
    """Three positions with p = 3/4, 1/2, 7/8, the first two of row 1, the last of row 0, none of row 2."""
    rows = torch.tensor([1, 1, 0])
    found = sequence_logps(torch.tensor([3 / 4, 1 / 2, 7 / 8]).log(), rows, 3)
    assert values(found) == pytest.approx([log(7 / 8), log(3 / 8), 0.0])
    assert values(lengths(rows, 3)) == [1, 2, 0]
    assert exp(found[1]) == pytest.approx(3 / 8)
