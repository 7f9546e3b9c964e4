"""The rate of every step, against transformers' own schedules and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from finetune.errors import RecipeError
from finetune.recipe import TrainSection
from finetune.schedule import learning_rate, plan

STEPS, WARMUP, PEAK = 20, 3, 0.25


def section(**more) -> TrainSection:
    return TrainSection(**{"max_steps": STEPS, "learning_rate": PEAK, "warmup_steps": WARMUP} | more)


def transformers_rates(name: str, warmup: int, specific: dict) -> list[float]:
    """The rates that transformers' scheduler sets for steps 0 to STEPS."""
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = get_scheduler(name, optimizer, warmup, STEPS, scheduler_specific_kwargs=specific)
    rates = []
    for _ in range(STEPS + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("name", "specific", "ours"),
    [
        ("cosine", {}, {"lr_scheduler_type": "cosine"}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}, {"lr_scheduler_type": "cosine", "min_lr_ratio": 0.1}),
        ("linear", {}, {"lr_scheduler_type": "linear"}),
        ("constant_with_warmup", {}, {"lr_scheduler_type": "constant"}),
        (
            "warmup_stable_decay",
            {"num_decay_steps": 6},
            {"lr_scheduler_type": "warmup_stable_decay", "decay_ratio": 0.3},
        ),
        (
            "warmup_stable_decay",
            {"num_decay_steps": 6, "min_lr_ratio": 0.2},
            {"lr_scheduler_type": "warmup_stable_decay", "decay_ratio": 0.3, "min_lr_ratio": 0.2},
        ),
    ],
)
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_transformers_schedules(name, specific, ours, warmup):
    """After warm-up the same rates. In it ours are one step ahead: transformers' first step has the rate 0, or, for
    warmup_stable_decay with a floor, warms up from the floor."""
    theirs = transformers_rates(name, warmup, specific)
    rates = [learning_rate(section(**ours, warmup_steps=warmup), step, STEPS) for step in range(STEPS)]
    assert rates[warmup:] == pytest.approx(theirs[warmup:STEPS], abs=1e-15)
    assert rates[:warmup] == [PEAK * (step + 1) / WARMUP for step in range(warmup)]
    if "min_lr_ratio" not in specific:
        assert rates[:warmup] == pytest.approx(theirs[1 : warmup + 1], abs=1e-15)


def test_rates_by_hand():
    """10 steps at 1.0, no warm-up. Linear to a floor of 0.2: 1 - 0.8 s / 10. WSD with decay_ratio 0.4: steps 6 to 9
    are at (1 + cos(pi k / 4)) / 2 for k = 0 to 3, all before at 1."""
    linear = TrainSection(max_steps=10, learning_rate=1.0, warmup_steps=0, lr_scheduler_type="linear", min_lr_ratio=0.2)
    assert [learning_rate(linear, s, 10) for s in range(10)] == pytest.approx([1 - 0.08 * s for s in range(10)])
    wsd = TrainSection(
        max_steps=10, learning_rate=1.0, warmup_steps=0, lr_scheduler_type="warmup_stable_decay", decay_ratio=0.4
    )
    falling = [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert [learning_rate(wsd, s, 10) for s in range(10)] == pytest.approx([1.0] * 6 + falling)
    assert learning_rate(wsd, 8, 10, peak=3.0) == pytest.approx(3 * falling[2])


def test_warmup_ratio_and_steps_are_one_schedule():
    by_ratio, by_steps = section(warmup_steps=None, warmup_ratio=0.15), section(warmup_steps=3)
    assert [learning_rate(by_ratio, s, STEPS) for s in range(STEPS)] == [
        learning_rate(by_steps, s, STEPS) for s in range(STEPS)
    ]


def test_a_schedule_longer_than_the_run():
    with pytest.raises(RecipeError, match=r"^train.warmup_steps: 30 steps of warm-up don't fit into 20 steps$"):
        plan(section(warmup_steps=30), 100, 1, 1)
    stable = section(lr_scheduler_type="warmup_stable_decay", warmup_steps=None, warmup_ratio=0.5, decay_ratio=0.6)
    said = r"^train.warmup_ratio: 10 steps of warm-up and 12 of decay \(train.decay_ratio\) don't fit into 20 steps$"
    with pytest.raises(RecipeError, match=said):
        plan(stable, 100, 1, 1)


def test_settings_without_effect_are_refused():
    for given, said in (
        ({"warmup_ratio": 0.1}, "give either `warmup_steps` or `warmup_ratio`, not both"),
        ({"min_lr_ratio": 0.1, "lr_scheduler_type": "constant"}, "`min_lr_ratio` has no effect with"),
        ({"decay_ratio": 0.5}, "`decay_ratio` has no effect with `lr_scheduler_type: cosine`"),
    ):
        with pytest.raises(ValueError, match=said):
            section(**given)
