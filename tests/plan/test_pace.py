"""FLOP and bytes of a step by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from finetune.plan.activations import Keeping
from finetune.plan.hardware import HARDWARE, Efficiency
from finetune.plan.pace import Work, forward_flops, training
from finetune.plan.shape import shape_of
from tests.plan.test_activations import BATCH, tiny


@pytest.fixture(scope="module")
def shape():
    return shape_of(tiny(torch.float32, "eager"), None, 4)


# 48 tokens through 2 layers of 30,720 weights; 24 x 24 pairs of 2 rows, 64 numbers a query; 10 x 300 x 64 at the head.
PLAIN = 2 * (48 * 2 * 30_720 + 10 * 300 * 64) + 4 * 2 * 24 * 24 * 2 * 64
LORA = 2 * 48 * 2 * 4 * (2 * 128 + 2 * 96 + 3 * 160)


def test_forward(shape):
    assert forward_flops(shape, BATCH, adapted=False) == PLAIN
    assert forward_flops(shape, BATCH) == PLAIN + LORA
    causal = replace(shape, attention="sdpa")
    assert forward_flops(causal, BATCH, adapted=False) == PLAIN - 2 * 2 * 24 * 24 * 2 * 64


def test_backward_leaves_out_the_gradients_of_frozen_weights(shape):
    """Forward, as much for inputs' gradients (of attention twice), twice for an adapter's; checkpointing: forward again."""
    pairs = 4 * 2 * 24 * 24 * 2 * 64
    once = training(shape, BATCH, Keeping()).products
    assert once == (PLAIN + LORA) + (PLAIN + pairs) + 2 * LORA
    assert training(shape, BATCH, Keeping(checkpointed=True)).products == once + PLAIN + LORA


def test_time_is_products_at_their_peak_and_bytes_at_theirs():
    row = replace(
        HARDWARE["h100-80g"],
        flops={"bfloat16": 100.0},
        bandwidth=10.0,
        efficiency=Efficiency({"bfloat16": 0.5}, 0.5, 0.0, 0.1, ""),
    )
    assert Work(100.0, 10.0).seconds(row, "bfloat16") == 2.0 + 2.0
    assert Work(100.0, 10.0, calls=50).seconds(row, "bfloat16") == 5.0  # the host can't start them faster
