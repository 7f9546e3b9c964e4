"""Differences of tensors made by hand, and what they are held against."""

from __future__ import annotations

import math

import pytest
import torch

from finetune.parity.compare import (
    ELEMENT,
    FLOAT32,
    OWN,
    STEP,
    TRAINED,
    Gap,
    compare_logits,
    compare_losses,
    compare_tensors,
    compared,
    first_over,
    gap,
)

ZERO = Gap(0.0, 0.0, 0.0, 0.0)


def flat(relative: float) -> Gap:
    """Of a tensor whose elements are all off by the same share."""
    return Gap(relative, relative, relative, relative / 2)


def test_numbers_of_a_gap():
    """Differences (0, 0, 0, 1) of values (3, 3, 3, 5): RMS 1/2 over sqrt(52 / 4); the element's 1 over 5 + sqrt(13)."""
    wanted = torch.tensor([3.0, 3.0, 3.0, 5.0])
    its = gap(wanted + torch.tensor([0.0, 0.0, 0.0, 1.0]), wanted)
    assert its == Gap(1.0, 0.25, pytest.approx(0.5 / math.sqrt(13)), pytest.approx(1 / (5 + math.sqrt(13))))


def test_every_row_counts_the_same():
    """One row ten thousand times larger is off by 3 %, the other three by 1 %: sqrt((9 + 3) / 4) %.

    A row smaller than the median row is held against that: 0.01 in a row of zeros is 1 % of the others.
    """
    wanted = torch.ones(4, 8)
    wanted[0] *= 1e4
    off = torch.full((4, 8), 1.01)
    off[0] = 1.03e4
    assert gap(off, wanted).relative == pytest.approx(0.01 * math.sqrt(3))
    wanted[3], off[3] = 0.0, 0.01
    assert gap(off, wanted).relative == pytest.approx(0.01 * math.sqrt(3))


def test_gaps_of_nothing_and_of_what_is_not_finite():
    """The same infinity on both sides is no difference; a shape that differs, or a NaN of the device alone, is infinite."""
    low = torch.tensor([1.0, -math.inf])
    assert (
        gap(low, low) == ZERO
        and gap(torch.zeros(3), torch.zeros(3)) == ZERO
        and gap(torch.ones(0), torch.ones(0)) == ZERO
    )
    assert gap(torch.tensor([math.nan, 1.0]), torch.tensor([1.0, 1.0])).relative == math.inf
    assert gap(torch.ones(2), torch.ones(3)).relative == math.inf
    assert gap(torch.tensor([1.0]), torch.zeros(1)).relative == math.inf
    assert gap(torch.tensor([1.0]), torch.zeros(1), scale=4.0).relative == 0.25


def test_a_gap_is_held_against_float32_or_the_dtypes_own_error():
    floor = FLOAT32
    assert compared("a", flat(floor / 2), None, floor).over == pytest.approx(0.5)
    assert compared("a", flat(floor / 2), None, floor).equal
    assert compared("a", flat(floor * 2), None, floor).over == pytest.approx(2)
    rounding = compared("a", flat(2e-2), flat(1e-2), floor)
    assert rounding.over == pytest.approx(2 / OWN) and not rounding.equal
    assert compared("a", flat(9e-2), flat(1e-2), floor).over == pytest.approx(9 / OWN)
    chance = compared("a", flat(STEP / 2), ZERO, floor)  # the reference is right by chance
    assert chance.over == pytest.approx(0.5) and compared("a", flat(STEP * 2), ZERO, floor).over == pytest.approx(2)
    alone = Gap(1.0, 0.0, 1e-9, 2 * ELEMENT * floor)  # one element far off in a large tensor
    assert compared("a", alone, None, floor).over == pytest.approx(2)
    assert compared("a", flat(math.inf), flat(math.inf), floor).over == math.inf


def test_tensors_are_compared_in_order_and_the_first_over_is_named():
    """bfloat16 of the reference as the device's: its error is the dtype's own. One tensor is missing, one is wrong."""
    torch.manual_seed(0)
    exact = {name: torch.randn(8, 16) for name in ("in", "attention", "mlp", "out")}
    wanted = {name: tensor.bfloat16() for name, tensor in exact.items()}
    found = {name: (tensor + tensor.abs() * 2e-3).bfloat16() for name, tensor in exact.items()}
    found["mlp"] = found["mlp"] * 1.05
    del found["in"]
    told = compare_tensors(exact, found.get, wanted.get, exact.get, FLOAT32)
    assert [one.name for one in told] == ["attention", "mlp", "out"]
    over = first_over(told)
    assert over is not None and over.name == "mlp" and over.over > 5
    assert [one.over < 1 for one in told] == [True, False, True]
    assert first_over(compare_tensors(exact, exact.get, exact.get, None, FLOAT32)) is None


def test_losses_are_held_against_the_largest_own_error_of_all_steps():
    """Step 2 in bfloat16 is right by chance; a device that is off there by as much as bfloat16 at step 1 is not wrong."""
    told = compare_losses([2.0, 1.01], [2.02, 1.0], [2.0, 1.0])
    assert [one.name for one in told] == ["the loss of step 1", "the loss of step 2"]
    assert [one.over for one in told] == [pytest.approx(1 / 1.01 / OWN), pytest.approx(1 / OWN)]
    alone = compare_losses([2.0 * (1 + 2 * TRAINED * FLOAT32), 1.0], [2.0, 1.0, 0.5], None)
    assert len(alone) == 2 and alone[0].over == pytest.approx(2) and alone[1].over == 0
    assert compare_losses([math.nan], [1.0], None)[0].over == math.inf


def test_numbers_of_logits():
    """Two positions over two tokens, p = (1/2, 1/2) and (3/4, 1/4); the device has (1/4, 3/4) at the second."""
    wanted = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    found = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    told = compare_logits(found, wanted)
    assert (told.positions, told.greedy) == (2, 0.5)
    assert told.kl == pytest.approx((0.75 * math.log(3) + 0.25 * math.log(1 / 3)) / 2)
    assert told.max_abs == pytest.approx(math.log(3)) and told.mean_abs == pytest.approx(math.log(3) / 2)
    assert told.of_spread == pytest.approx(math.log(3) / float(wanted.double().std()))
    rewards = compare_logits(found, wanted, language=False)
    assert (rewards.greedy, rewards.kl) == (None, None)
