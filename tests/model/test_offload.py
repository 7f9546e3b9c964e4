"""Activations in the host's memory: the same bits come back, and weights stay."""

from __future__ import annotations

import pytest
import torch

from finetune.model import offload
from finetune.model.adapter import add_adapter
from finetune.model.speed import prepare_for_training
from finetune.recipe import TrainSection
from finetune.recipe_peft import LoraSection
from tests.conftest import tiny_llama

IDS = torch.arange(1, 61).reshape(2, 30)
MASK = torch.ones_like(IDS)
KEPT = MASK.flatten().nonzero()[:, 0]


def loss_and_gradients(**more: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model, _ = add_adapter(tiny_llama(258), LoraSection(r=4, lora_dropout=0.1), seed=0)
    ready = prepare_for_training(model, TrainSection(max_steps=1, **more)).train()
    torch.manual_seed(1)
    loss = ready(IDS, MASK, KEPT).logsumexp(1).sum()
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in ready.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_same_bits(checkpointing, monkeypatch):
    """The copies are made (on a CPU from the host to the host), and loss and gradients are equal to the last bit."""
    copied = []
    plain_copy = torch.empty_like

    def counting(tensor, **more):
        if "pin_memory" in more:
            copied.append(tensor)
        return plain_copy(tensor, **more)

    plain = loss_and_gradients(gradient_checkpointing=checkpointing)
    assert copied == []
    with monkeypatch.context() as patch:
        patch.setattr(offload.torch, "empty_like", counting)
        other = loss_and_gradients(gradient_checkpointing=checkpointing, activation_offloading=True)
    assert torch.equal(plain[0], other[0])
    assert all(torch.equal(left, right) for left, right in zip(plain[1], other[1], strict=True))
    weights = {p.untyped_storage().data_ptr() for p in tiny_llama(258).parameters()}
    assert not weights & {tensor.untyped_storage().data_ptr() for tensor in copied}
    layers = [tensor for tensor in copied if tensor.shape == (2, 30, 64)]
    if checkpointing:  # of each of the two layers its input; outside of them the last norm's and the head's
        assert len(layers) >= 2 and len(copied) < 10
    else:
        assert len(copied) > 40


def test_weights_stay(monkeypatch):
    """Of what is kept for the backward pass of a linear layer only the input goes, not the frozen weight or a view."""
    layer = torch.nn.Linear(64, 64, bias=False).requires_grad_(False)
    inputs = torch.randn(32, 64, requires_grad=True)
    went = []
    monkeypatch.setattr(offload.torch, "empty_like", lambda tensor, **_: went.append(tensor) or tensor.clone())
    with offload.ActivationOffloading(layer)():
        torch.nn.functional.gelu(layer(inputs)).sum().backward()
    assert [tensor.shape for tensor in went] == [(32, 64)]
