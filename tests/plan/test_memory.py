"""Weights, adapter and optimizer state to the byte, against real tensors; what processes share."""

from __future__ import annotations

import pytest
import torch

from finetune.fullstate import trainable
from finetune.groups import parameter_groups
from finetune.optimizer import OPTIMIZERS
from finetune.plan.activations import Keeping
from finetune.plan.hardware import HARDWARE
from finetune.plan.memory import Share, memory_of, state_bytes
from finetune.plan.shape import Tensor, shape_of
from finetune.plan.weights import stored_bytes
from finetune.recipe import TrainSection
from tests.plan.test_activations import BATCH, tiny

PLAIN = ["adamw_torch", "adafactor", "lion", "muon"]


def shape():
    return shape_of(tiny(torch.float32, "eager"), None, 4)


def test_the_base_is_counted_once():
    """Embeddings 300 x 64 (tied), two layers of q and o 64 x 64, k and v 32 x 64, three of 96 x 64 and two norms, the
    last norm: 19,200 + 2 (8,192 + 4,096 + 18,432 + 128) + 64 = 80,960 numbers; 8 frequencies of the rotary embedding
    twice beside them."""
    found = shape()
    assert found.parameters == 80_960
    assert found.base == 4 * (80_960 + 2 * 8)


def test_the_adapter_is_counted_by_tensor():
    """r 4: A and B of q, o (4 x 128), k, v (4 x 96), gate, up, down (4 x 160), two layers."""
    numbers = 2 * 4 * (2 * 128 + 2 * 96 + 3 * 160)
    found = shape()
    assert found.trained == numbers
    assert sum(tensor.bytes for tensor in found.adapter) == 4 * numbers


def test_layers_in_numbers():
    layer = shape().layers[0]
    assert (layer.hidden, layer.queries, layer.keys, layer.heads, layer.feed) == (64, 64, 32, 4, 96)
    assert (layer.gated, layer.norms, layer.product) == (True, 128, 8_192 + 4_096 + 18_432)
    assert [part.own for part in layer.adapted] == [True, False, False, True, True, False, True]


@pytest.mark.parametrize("optim", PLAIN)
def test_optimizer_state_is_that_of_a_real_step(optim):
    model = tiny(torch.float32, "eager")
    section = TrainSection(max_steps=1, optim=optim)
    named = list(trainable(model))
    optimizer = OPTIMIZERS[optim].build(parameter_groups(named, section), section)
    for _, parameter in named:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = sum(
        entry.numel() * entry.element_size()
        for state in optimizer.state.values()
        for entry in state.values()
        if isinstance(entry, torch.Tensor) and entry.numel() * entry.element_size() > 0
        if not (optim == "adafactor" and entry.ndim == 0)  # RMS, made anew at each step
    )
    assert sum(state_bytes(optim, tensor) for tensor in shape().adapter) == held


def test_eight_bit_state_by_hand():
    """A matrix of 4,096 numbers: two codes each, and two scales for each of 16 blocks of 256; a smaller one plain."""
    assert state_bytes("adamw_8bit", Tensor("a", (64, 64), 4 * 4096, True)) == 2 * 4096 + 2 * 16 * 4
    assert state_bytes("adamw_8bit", Tensor("a", (63, 65), 4 * 4095, True)) == 8 * 4095


def test_processes_share_what_their_engine_shards():
    whole = memory_of(shape(), BATCH, Keeping(), "adamw_torch", HARDWARE["h100-80g"])
    parts = {
        engine: memory_of(shape(), BATCH, Keeping(), "adamw_torch", HARDWARE["h100-80g"], Share(4, engine))
        for engine in ("ddp", "zero2", "zero3", "fsdp2")
    }
    assert parts["ddp"] == whole
    assert parts["zero2"].base == whole.base and parts["zero2"].optimizer == -(-whole.optimizer // 4)
    assert parts["fsdp2"].base == parts["zero3"].base == whole.base // 4
    # Two layers whole for as long as they compute, and both ends: 2 x 30,848 + 2 x 19,200 numbers of 4 bytes.
    assert parts["fsdp2"].workspace - whole.workspace == 4 * (2 * 30_848 + 2 * 19_200)


@pytest.mark.parametrize(
    ("method", "size"),
    [
        # (96, 64): 6,144 values
        (("nf4", {}), 6144 // 2 + 96 + 4),  # a scale of 64 values is a byte, of 256 scales four
        (("int8", {}), 6144 + 4 * 96),
        (("int8_weight_only", {}), 6144 + 2 * 96),
        (("int4_weight_only", {}), 6144 + 192 * 3),
        (("gptq", {"bits": 4, "group_size": 64}), 6144 // 2 + 96 * 2 + 48),
        (("compressed-tensors", {}), 6144 * 2),
        (None, 6144 * 2),
    ],
)
def test_a_weight_in_fewer_bits(method, size):
    assert stored_bytes(torch.empty(96, 64, dtype=torch.bfloat16, device="meta"), method) == size


def test_only_linear_layers_are_quantised():
    """The ends stay: of 80,960 numbers 61,440 lie in linear layers (a scale for each of 960 blocks, 4 bytes for 256)."""
    plain, packed = shape(), shape_of(tiny(torch.float32, "eager"), ("nf4", {}), 4)
    matrices = [4096, 2048, 2048, 4096, 6144, 6144, 6144]
    held = 2 * sum(n // 2 + n // 64 + 4 * -(-n // 64 // 256) for n in matrices)
    assert packed.base == plain.base - 4 * 61_440 + held
    assert packed.largest == 4 * 6144
