"""The device's random numbers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.npu.checks.common import NPU, draw


def check_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = torch.rand(3, device=NPU)
    assert torch.equal(torch.get_rng_state(), before)
    state = torch.npu.get_rng_state()
    assert (state.dtype, tuple(state.shape)) == (torch.uint8, (16,))
    second, third = F.dropout(torch.ones(64, device=NPU)), torch.randn(2, device=NPU)
    torch.npu.set_rng_state(state)
    assert torch.equal(F.dropout(torch.ones(64, device=NPU)), second)
    assert torch.equal(torch.randn(2, device=NPU), third)
    torch.manual_seed(5)
    with torch.random.fork_rng(devices=[0], device_type="npu"):
        torch.rand(7, device=NPU)
    torch.rand(3)  # the CPU's moves nothing here
    assert torch.equal(torch.rand(3, device=NPU), first)
    states = torch.npu.get_rng_state_all()
    assert len(states) == torch.npu.device_count() == 2
    torch.npu.set_rng_state_all(states)


def check_generators() -> None:
    own = torch.Generator(NPU).manual_seed(4)
    assert (own.device, torch.Generator().device) == (torch.device(NPU), torch.device("cpu"))
    assert all(isinstance(one, torch.Generator) for one in (own, torch.Generator(), torch.default_generator))
    before = torch.npu.get_rng_state()
    first = [torch.rand(2, device=NPU, generator=own), torch.empty(2, device=NPU).exponential_(generator=own)]
    assert torch.equal(torch.npu.get_rng_state(), before)
    own.manual_seed(4)
    again = [torch.rand(2, device=NPU, generator=own), torch.empty(2, device=NPU).exponential_(generator=own)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    with pytest.raises(RuntimeError, match="Expected a 'npu' device type for generator"):
        torch.rand(3, device=NPU, generator=torch.Generator())


def check_dropout_replays_under_checkpointing() -> None:
    weight = torch.nn.Parameter(draw(8, 8).to(NPU))

    def block(value: torch.Tensor) -> torch.Tensor:
        return F.dropout(value @ weight, 0.5)

    found = []
    for again in (False, True):
        torch.manual_seed(2)
        value = torch.ones(4, 8, device=NPU)
        out = checkpoint(block, block(value), use_reentrant=False) if again else block(block(value))
        out.sum().backward()
        found.append((out.detach(), weight.grad))
        weight.grad = None
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert 0 < int((found[0][0] == 0).sum()) < 32
