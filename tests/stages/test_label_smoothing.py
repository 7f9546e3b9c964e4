"""Label smoothing in sft: the formula by hand, torch's own, and only in training."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finetune.model.token_logps import read_logps
from finetune.recipe_stages import SftSection
from finetune.stages.sft import Sft


class Fixed(nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, *_: torch.Tensor, targets: torch.Tensor | None = None):
        return self.logits if targets is None else read_logps(self.logits, targets, 1.0, False)


def stage(smoothing: float) -> Sft:
    return Sft(SimpleNamespace(), SimpleNamespace(), SftSection(label_smoothing_factor=smoothing))


def batch(*targets: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros(1, len(targets), dtype=torch.long)
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "kept": torch.arange(len(targets)),
        "targets": torch.tensor(targets), "tokens": torch.tensor(len(targets)),
    }  # fmt: skip


def test_by_hand():
    """Probabilities (1/2, 1/4, 1/4), target 0, e = 0.3: 0.7 ln 2 + 0.3 (ln 2 + ln 4 + ln 4) / 3 = 0.7 ln 2 + 0.5 ln 2
    = 1.2 ln 2; without smoothing, and at a look, ln 2."""
    model = Fixed(torch.log(torch.tensor([[0.5, 0.25, 0.25]])))
    loss = stage(0.3).loss(model.train(), batch(0))
    assert loss.value.item() == pytest.approx(1.2 * math.log(2), rel=1e-6)
    assert loss.sums["nll"].item() == pytest.approx(math.log(2), rel=1e-6)
    assert stage(0.3).loss(model.eval(), batch(0)).value.item() == pytest.approx(math.log(2), rel=1e-6)
    plain = stage(0.0).loss(model.train(), batch(0))
    assert plain.value.item() == pytest.approx(math.log(2), rel=1e-6)
    assert set(plain.sums) == {"token_accuracy"}


def test_sum_and_gradient_are_torch_s():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    model = Fixed(logits.clone())
    loss = stage(0.1).loss(model, batch(0, 3, 6, 3))
    loss.value.backward()
    again = logits.clone().requires_grad_()
    expected = F.cross_entropy(again, torch.tensor([0, 3, 6, 3]), reduction="sum", label_smoothing=0.1)
    expected.backward()
    assert torch.equal(loss.value, expected)
    assert torch.equal(model.logits.grad, again.grad)
