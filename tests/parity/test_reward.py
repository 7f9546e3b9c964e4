"""Bradley-Terry by hand, and against TRL's RewardTrainer (recorded by record_reward.py)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.data.aspects import UNSAID
from finetune.data.chat import IGNORED, ChatEncoder, Example
from finetune.data.items import Pair
from finetune.model.score import SequenceScores
from finetune.recipe_data import DataSection, SourceSection, SplitSection
from finetune.recipe_stages import RewardSection
from finetune.stages.base import means
from finetune.stages.reward import Reward, pair_losses
from tests.conftest import byte_tokenizer
from tests.parity.reward_case import CASES, CHOSEN, REJECTED, gradient_norm, tiny_classifier

RECORDED = json.loads(Path(__file__).with_name("reward.json").read_text(encoding="utf-8"))["cases"]


class Bare(nn.Module):
    """A model without an adapter, in peft's place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def get_base_model(self) -> nn.Module:
        return self.inner


def stage(**settings) -> Reward:
    files = (SourceSection(path="none.jsonl"),)
    section = DataSection(format="auto", train=files, split=SplitSection(eval_rows=1))
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(9)
    return Reward(ChatEncoder(tokenizer), section, RewardSection(**settings))


def example(ids: list[int], marks: tuple[float, ...]) -> Example:
    return Example(tuple(ids), (IGNORED, *ids[1:]), "f:1", marks)


@pytest.mark.parametrize("case", sorted(CASES))
def test_loss_gradient_and_metrics_are_trls(case):
    """One reward, unequal lengths. TRL's padding is id 0, which ends no row; ours is id 9, which does: the mask decides."""
    margins = CASES[case]["margins"] or [0.0] * len(CHOSEN)
    ours = stage(center_rewards_coefficient=CASES[case]["center_rewards_coefficient"])
    pairs = [
        Pair(example(chosen, (1.0, margin)), example(rejected, (1.0, margin)))
        for chosen, rejected, margin in zip(CHOSEN, REJECTED, margins, strict=True)
    ]
    batch = ours.collate(pairs)
    model = tiny_classifier()
    loss = ours.loss(SequenceScores(Bare(model)), batch)
    (loss.value / ours.count(batch)).backward()
    expected = RECORDED[case]
    assert loss.value.item() / ours.count(batch) == pytest.approx(expected["loss"], rel=1e-5)
    assert gradient_norm(model) == pytest.approx(expected["grad_norm"], rel=1e-5)
    rewards = SequenceScores(Bare(model))(batch["input_ids"], batch["attention_mask"]).flatten().tolist()
    assert rewards == pytest.approx(expected["rewards"], abs=1e-5)
    logged = means({name: float(value) for name, value in loss.sums.items()} | {"count": float(ours.count(batch))})
    assert set(logged) == {"accuracy", "margin", "mean_reward"}
    for name, value in logged.items():
        assert value == pytest.approx(expected[name], abs=1e-5)
    assert ours.scores(logged) == {"accuracy": 0.75}


def test_losses_by_hand():
    """sigmoid(log 3) = 3/4, so -log sigmoid(log 3) = log(4/3) and -log sigmoid(-log 3) = log 4.

    Aspect 1, rewards log 3 and 0, the chosen better, no margin: log(4/3).
    Aspect 2, the same rewards, the rejected better by a margin of log 3: -log sigmoid(-log 3 - log 3), and
        sigmoid(-2 log 3) = 1 / (1 + 9), so log 10.
    Aspect 3, the same rewards, a tie: (log(4/3) + log 4) / 2.
    Aspect 4, nothing said: 0, whatever the rewards.
    With the coefficient c every aspect that is said something of gets c (log 3 + 0)^2 on top.
    """
    three = math.log(3)
    chosen, rejected = torch.tensor([[three, three, three, 5.0]]), torch.zeros(1, 4)
    said, margin = torch.tensor([[1.0, 0.0, 0.5, UNSAID]]), torch.tensor([[0.0, three, 0.0, 0.0]])
    expected = [math.log(4 / 3), math.log(10), (math.log(4 / 3) + math.log(4)) / 2, 0.0]
    assert pair_losses(chosen, rejected, said, margin)[0].tolist() == pytest.approx(expected)
    on_top = [0.1 * three**2] * 3 + [0.0]
    both = [a + b for a, b in zip(expected, on_top, strict=True)]
    assert pair_losses(chosen, rejected, said, margin, 0.1)[0].tolist() == pytest.approx(both)


def test_weights_counts_and_metrics_of_aspects_by_hand():
    """Two pairs and a blank one, two aspects with weights 1 and 2; rewards of the pairs (chosen, rejected):

    pair 1: right (log 3, 0), the chosen better; form (0, log 3), the chosen better: log(4/3) + 2 log 4;
    pair 2: right (1, 1), a tie: log 2; form nothing. The blank pair adds nothing and is not counted.
    accuracy: pair 1 is right in one of its two decided aspects, and nothing else is decided: 1/2; margin: (log 3 - log 3) / 2.
    mean_reward: (log 3)/2 and (log 3)/2 of pair 1, 1 of pair 2, over the three that are said something of.
    """
    three = math.log(3)
    rewards = torch.tensor([[three, 0.0], [1.0, 7.0], [9.0, 9.0], [0.0, three], [1.0, 8.0], [4.0, 4.0]])
    ours = stage(aspects={"right": 1.0, "form": 2.0})
    marks = [(1.0, 1.0, 0.0, 0.0), (0.5, UNSAID, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)]
    pairs = [Pair(example([1, 2], mark), example([1, 3, 4], mark)) for mark in marks]
    batch = ours.collate([*pairs[:2], pairs[2].blank()])
    assert batch["input_ids"].shape == (6, 3) and ours.count(batch) == 2 and int(batch["tokens"]) == 15
    loss = ours.loss(lambda *_: rewards, batch)
    assert loss.value.item() == pytest.approx(math.log(4 / 3) + 2 * math.log(4) + math.log(2))
    logged = means({name: float(value) for name, value in loss.sums.items()} | {"count": 2.0})
    assert logged == pytest.approx({
        "accuracy": 0.5, "accuracy/right": 1.0, "accuracy/form": 0.0,
        "margin": 0.0, "margin/right": three, "margin/form": -three,
        "mean_reward": (three / 2 + three / 2 + 1) / 3, "mean_reward/right": (three / 2 + 1) / 2,
        "mean_reward/form": three / 2,
    }, abs=1e-6)  # fmt: skip
    assert list(ours.scores(logged)) == ["accuracy", "accuracy/right", "accuracy/form"]
