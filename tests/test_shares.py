"""Which part of a mixture gives which items: shares by hand, long runs, epochs; the loss of a step of several stages."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from finetune.data.chat import Example
from finetune.data.mixed import MixedItems, items_of_epoch, items_of_step
from finetune.schedule import Plan, batch_indices
from finetune.shares import allotment, epoch_items, mixed_indices, shares
from finetune.stages.base import LossSum
from finetune.stages.mixture import Mixture, MixturePart
from finetune.step import held_out_loss, take_step


def test_allotment_by_hand():
    """5 : 3 : 1, due at 9/5 * (1/2, 3/2, ...) = 0.9, 2.7, 4.5, 6.3, 8.1; 3 * (...) = 1.5, 4.5, 7.5; 9/2 = 4.5.

    In the order of these times, of equals the part named first: 0 1 0 0 1 2 0 1 0.
    """
    order = [0, 1, 0, 0, 1, 2, 0, 1, 0]
    for items in range(10):
        assert allotment([5, 3, 1], items) == [order[:items].count(part) for part in range(3)]
    assert allotment([5, 3, 1], 9000) == [5000, 3000, 1000]
    assert allotment([2.0], 7) == [7]


@pytest.mark.parametrize("weights", [[0.9, 0.1], [1, 1, 1], [0.7, 0.2, 0.06, 0.04], [1, 1000]])
def test_shares_are_exact_in_the_long_run_and_only_grow(weights):
    before = [0] * len(weights)
    for items in (*range(200), 12_345, 1_000_000):
        given = allotment(weights, items)
        assert sum(given) == items and all(now >= then for now, then in zip(given, before, strict=True))
        assert all(abs(count - share * items) < 2 for count, share in zip(given, shares(weights), strict=True))
        before = given


def test_every_part_goes_through_its_rows_epoch_after_epoch():
    """Sizes 10 and 3 by 2 : 1 in batches of 6: 4 and 2 a step. In 15 steps each row of part 0 is met 6 times, of part 1
    10 times, and each epoch of a part is a permutation."""
    steps = [mixed_indices(7, step, [10, 3], [2, 1], 6) for step in range(15)]
    assert {(len(first), len(second)) for first, second in steps} == {(4, 2)}
    walked = [[index for step in steps for index in step[part]] for part in (0, 1)]
    assert set(Counter(walked[0]).values()) == {6} and set(Counter(walked[1]).values()) == {10}
    for part, size in ((0, 10), (1, 3)):
        epochs = [walked[part][i : i + size] for i in range(0, len(walked[part]), size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1
    assert steps == [mixed_indices(7, step, [10, 3], [2, 1], 6) for step in range(15)]
    assert walked[0] != [i for step in range(15) for i in mixed_indices(8, step, [10, 3], [2, 1], 6)[0]]


def test_a_part_alone_walks_as_its_stage_does():
    """31 rows in batches of 4: the last batch of an epoch has 3."""
    for step in range(20):
        assert mixed_indices(3, step, [31], [0.4], 4) == [batch_indices(3, step, 31, 4)]


def test_a_small_share_gets_its_items_now_and_then():
    """A tenth of batches of 4: two items in five steps, none in most of them."""
    sizes = [len(mixed_indices(0, step, [100, 100], [9, 1], 4)[1]) for step in range(50)]
    assert sum(sizes) == 20 and set(sizes) == {0, 1}


def test_an_epoch_is_that_of_the_first_part():
    """10 rows at a share of 2/3 are gone through once in 15 items; of a part alone in as many as it has."""
    assert epoch_items([10, 3], [2, 1]) == 15
    assert epoch_items([10, 3], [1, 2]) == 30
    assert epoch_items([31], [0.3]) == 31
    assert Fraction(10) / shares([0.7, 0.3])[0] < epoch_items([10, 99], [0.7, 0.3]) == 15


def example(value: int, length: int) -> Example:
    return Example((value,) * length, (value,) * length, f"f:{value}")


class Summing:
    """A stage whose loss is w times the sum of all ids; it counts tokens, or items."""

    def __init__(self, unit: str) -> None:
        self.unit = unit

    def collate(self, items):
        ids = torch.tensor([sum(item.ids) for item in items], dtype=torch.float64)
        tokens = torch.tensor(sum(item.trained for item in items))
        return {"ids": ids, "tokens": tokens, "rows": torch.tensor(sum(item.trained > 0 for item in items))}

    def count(self, batch) -> int:
        return int(batch["tokens" if self.unit == "tokens" else "rows"])

    def loss(self, model, batch) -> LossSum:
        value = model(batch["ids"]).sum()
        return LossSum(value, {"size": batch["ids"].sum(), "half": torch.tensor(3.0), "half:count": torch.tensor(2)})


class OneProcess:
    """What a step asks of accelerate, without it."""

    device = torch.device("cpu")
    process_index = 0
    num_processes = 1

    def reduce(self, tensor, reduction):
        return tensor

    def unwrap_model(self, model):
        return model


class Times(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, ids):
        return self.w * ids


@pytest.fixture
def engineless(monkeypatch):
    """Gradients as torch makes them; the optimizer's step is left out, so that the gradient stays to be seen."""
    from contextlib import nullcontext

    from finetune import engine

    monkeypatch.setattr(engine, "micro_batch", lambda *_: nullcontext())
    monkeypatch.setattr(engine, "backward", lambda _placement, _model, loss: loss.backward())
    monkeypatch.setattr(engine, "clip_gradients", lambda _placement, model, _limit: model.w.grad.norm())
    monkeypatch.setattr(engine, "step", lambda *_, apply: None)
    from contextlib import nullcontext as nothing

    return SimpleNamespace(accelerator=OneProcess(), autocast=nothing, sum_dtype=torch.float64)


def mixture(loss_weight: float = 0.5) -> Mixture:
    return Mixture(
        [MixturePart("a", Summing("tokens"), 3, 1.0), MixturePart("b", Summing("pairs"), 1, loss_weight)]  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_the_loss_of_a_step_by_hand(engineless, micro_batch):
    """Part a: items 1 1, 2 2 2, 5 (six tokens), b: 7 7 (one pair counted), so three items and one of four; w = 1.

    a's mean is (2 + 6 + 5) / 6 = 13/6, b's 14 / 1. The step's loss and gradient: 3/4 * 13/6 + 0.5 * 1/4 * 14 = 3.375.
    """
    items = MixedItems([[example(1, 2), example(2, 3), example(5, 1)], [example(7, 2)]], [3, 1])
    chosen = items_of_step(items, 0, 0, 4)
    assert sorted(mixed.where for mixed in chosen) == ["f:1", "f:2", "f:5", "f:7"]
    model = Times()
    outcome = take_step(model, None, mixture(), chosen, Plan(4, 1, micro_batch, 1, 1), 1.0, engineless, (False, False))
    assert float(model.w.grad) == pytest.approx(3.375, rel=1e-12)
    sums = outcome.sums
    assert sums["count"] == 6 + 1 and sums["loss"] / sums["count"] == pytest.approx(3.375, rel=1e-12)
    assert sums["a/loss"] / sums["a/loss:count"] == pytest.approx(13 / 6)
    assert (sums["b/loss"], sums["b/loss:count"]) == (14.0, 1)
    assert (sums["a/size"], sums["a/size:count"]) == (13.0, 6)
    batches = -(-3 // micro_batch)
    assert (sums["a/half"], sums["a/half:count"]) == (3.0 * batches, 2 * batches)  # a count of its own stays
    assert sums["tokens"] == 8


def test_the_held_out_loss_by_hand(engineless):
    """By weight, not by rows: two of a and three of b are held out, and a counts 3/4: 3/4 * 5/2 + 0.5 * 1/4 * 24/3."""
    items = list(MixedItems([[example(1, 1), example(4, 1)], [example(7, 1), example(8, 1), example(9, 1)]], [3, 1]))
    stop = SimpleNamespace(requested=None)
    values = held_out_loss(Times(), mixture(), items, Plan(4, 1, 2, 1, 1), engineless, stop)
    assert values["eval_a/loss"] == pytest.approx(2.5) and values["eval_b/loss"] == pytest.approx(8.0)
    assert values["eval_loss"] == pytest.approx(0.75 * 2.5 + 0.5 * 0.25 * 8)
    assert items_of_epoch(items) == 5


def test_a_part_without_an_item_in_a_step_is_not_there(engineless):
    items = MixedItems([[example(1, 2)], [example(7, 2)]], [9, 1])
    chosen = items_of_step(items, 0, 0, 2)
    assert [mixed.part for mixed in chosen] == [0, 0]
    model = Times()
    outcome = take_step(model, None, mixture(), chosen, Plan(2, 1, 2, 1, 1), 1.0, engineless, (False, False))
    assert float(model.w.grad) == pytest.approx(1.0) and not any(name.startswith("b/") for name in outcome.sums)


@pytest.mark.parametrize(("units", "said"), [(("tokens", "tokens"), "tokens"), (("tokens", "pairs"), "items")])
def test_the_unit_of_a_mixture(units, said):
    assert Mixture([MixturePart(unit, Summing(unit), 1, 1.0) for unit in units]).unit == said  # type: ignore[arg-type]
