"""Memory accounting, several devices, what libraries see, collectives."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

from tests.npu.checks.common import NPU


def check_memory_is_accounted() -> None:
    before = torch.npu.memory_allocated()
    held = torch.ones(256, 256, device=NPU)
    view = held[:2]
    doubled = held * 2
    assert torch.npu.memory_allocated() - before == 2 * 4 * 256 * 256
    del held, doubled
    assert torch.npu.memory_allocated() - before == 4 * 256 * 256
    assert view.sum().item() == 512
    assert torch.npu.max_memory_allocated() - before >= 2 * 4 * 256 * 256
    del view
    torch.npu.reset_peak_memory_stats()
    assert torch.npu.max_memory_allocated() == torch.npu.memory_allocated() == before
    free, total = torch.npu.mem_get_info()
    assert total - free == before


def check_devices() -> None:
    import torch_npu

    assert torch.ones(1, device="npu").device == torch.device(NPU)
    with torch.npu.device(1):
        assert torch.ones(1, device="npu").device == torch.device("npu:1")
    assert torch.npu.current_device() == 0
    moved = torch.ones(2, device="npu:1", requires_grad=True)
    moved.to(NPU).sum().backward()
    assert moved.grad.device == torch.device("npu:1")
    for index in ("npu:2", "npu:7"):
        with pytest.raises(RuntimeError, match="no device"):
            torch.ones(1, device=index)
    visible = torch_npu.hardware.visible_devices
    cases = {None: 8, "": 0, "0": 1, "2,3": 2, "0,1,9": 2, "1,0": 0, "0,1,x": 2}
    assert {listed: visible(8, listed) for listed in cases} == cases


def check_libraries_find_it() -> None:
    from accelerate import Accelerator
    from accelerate.utils import is_npu_available

    assert importlib.metadata.version("torch_npu") == "2.13.0+emul"
    assert importlib.metadata.requires("torch_npu") == ["torch==2.13.0.*"]
    assert is_npu_available()
    assert Accelerator().device == torch.device("npu")
    assert (torch.accelerator.current_accelerator(), torch.npu.is_available()) == (torch.device("npu"), True)
    torch.npu.config.allow_internal_format = False
    torch.npu.set_compile_mode(jit_compile=False)
    assert torch.npu.options == {"ALLOW_INTERNAL_FORMAT": "disable", "jit_compile": False}
    with pytest.raises(AttributeError):
        torch.npu.config.allow_internal_format  # noqa: B018


def check_collectives() -> None:
    import torch.distributed as dist

    dist.init_process_group("hccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        value = torch.arange(4.0, device=NPU)
        dist.all_reduce(value, op=dist.ReduceOp.AVG)
        dist.broadcast(value, 0)
        gathered, part = torch.zeros(4, device=NPU), torch.zeros(4, device=NPU)
        dist.all_gather_single(gathered, value)
        dist.reduce_scatter_single(part, value)
        parts = [torch.zeros(4, device=NPU)]
        dist.all_gather(parts, value)
        dist.barrier()
        assert dist.get_backend() == "hccl"
        assert [tensor.tolist() for tensor in (value, gathered, part, *parts)] == [[0, 1, 2, 3]] * 4
    finally:
        dist.destroy_process_group()
