"""Attention to a beginning that rows share, part by part, is attention to the whole; and it is there only while it is wanted."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from finetune.device.cpu import CPU
from finetune.evaluate.beginning import beginning_read_once

SHARED, OWN, ROWS, HEADS, GROUPS, WIDTH = 5, 4, 3, 6, 2, 8


def whole(query, key, value, mask, scale):
    """softmax(Q K^T s) V in float64 with each group's keys repeated for its heads; nothing seen gives 0."""
    key, value = (each.double().repeat_interleave(HEADS // GROUPS, 1) for each in (key, value))
    scores = (query.double() @ key.mT * scale).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def asked(count: int, dtype=torch.float32):
    """Queries of `count` tokens, keys and values whose first SHARED columns are the same in every row."""
    draw = torch.Generator().manual_seed(3)
    query = torch.randn(ROWS, HEADS, count, WIDTH, generator=draw)
    key, value = torch.randn(2, ROWS, GROUPS, SHARED + OWN, WIDTH, generator=draw)
    for each in (key, value):
        each[:, :, :SHARED] = each[:1, :, :SHARED].clone()
    return query.to(dtype), key.to(dtype), value.to(dtype)


def masked(count: int, padding=(0, 1, 3)) -> torch.Tensor:
    """(B, 1, T, S + C): the beginning, and of a row's own columns those after its padding, up to the query's."""
    column, place = torch.arange(SHARED + OWN), torch.arange(SHARED + OWN - count, SHARED + OWN)
    own = (column >= SHARED + torch.tensor(padding)[:, None, None]) & (column <= place[:, None])
    return ((column < SHARED) | own)[:, None]


@pytest.mark.parametrize("count", [1, OWN])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-6)])
def test_parts_are_the_whole(count, dtype, limit):
    """One token a row and a whole prompt, of which row 2 begins with three columns of padding that see the beginning only."""
    model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa"), modules=lambda: [layer])
    layer = torch.nn.Module()
    layer.num_key_value_groups = HEADS // GROUPS
    query, key, value = asked(count, dtype)
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
    calls = []

    def attend(*given):
        calls.append(given[1].shape)
        return CPU.attend(*given)

    with beginning_read_once(model, SHARED, attend):
        ours = ALL_ATTENTION_FUNCTIONS["sdpa"]
        found, _ = ours(layer, query, key, value, masked(count), scaling=0.3)
        assert calls == [(ROWS, GROUPS, OWN, WIDTH), (1, GROUPS, SHARED, WIDTH)]
        other = torch.nn.Module()
        other.num_key_value_groups = HEADS // GROUPS
        for module, mask, more in ((other, masked(count), {}), (layer, masked(count).float(), {}),
                                   (layer, masked(count), {"position_bias": torch.zeros(1, 1, 1, 1)})):  # fmt: skip
            ours(module, query, key, value, mask.to(dtype) if mask.is_floating_point() else mask, scaling=0.3, **more)
        assert len(calls) == 2  # another model, another kind of mask, more than attention: transformers' own
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is plain
    exact = whole(query, key, value, masked(count), 0.3)
    torch.testing.assert_close(found.double(), exact, rtol=limit, atol=limit)


def test_left_alone_without_a_beginning_or_the_device_s_attention():
    model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa"), modules=list)
    eager = SimpleNamespace(config=SimpleNamespace(_attn_implementation="eager"), modules=list)
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
    for its, shared, attend in ((model, 0, CPU.attend), (model, 5, None), (eager, 5, CPU.attend)):
        with beginning_read_once(its, shared, attend):
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is plain
