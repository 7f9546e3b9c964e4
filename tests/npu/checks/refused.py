"""What a card refuses, the emulated one refuses."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.npu.checks.common import NPU, on_soc


def check_mixing_raises() -> None:
    there, here = torch.ones(2, 2, device=NPU), torch.ones(2, 2)
    for mixed in (
        lambda: there + here,
        lambda: there @ here,
        lambda: there.add_(here),
        lambda: F.embedding(torch.tensor([1]), there),
        lambda: F.cross_entropy(there, torch.tensor([0, 1])),
        lambda: torch.cat([there, here]),
        lambda: torch.where(here > 0, there, there),
        lambda: there + torch.ones(2, 2, device="npu:1"),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    assert (there * torch.tensor(2.0)).sum().item() == 8  # without dimensions: as everywhere in torch
    assert there[torch.tensor([1])].shape == (1, 2)
    with pytest.raises(TypeError, match="npu"):
        there.numpy()


def check_float64_raises() -> None:
    there = torch.ones(2, device=NPU)
    for wide in (
        lambda: there.double(),
        lambda: torch.zeros(2, dtype=torch.float64, device=NPU),
        lambda: torch.ones(2, dtype=torch.float64).to(NPU),
        lambda: there.sum(dtype=torch.float64),
        lambda: there.to("cpu", torch.float64),
        lambda: torch.arange(2, dtype=torch.float64, device=NPU),
        lambda: there.to(torch.complex128),
        lambda: there.to(torch.float8_e4m3fn),
    ):
        with pytest.raises(RuntimeError, match="is not to be had on"):
            wide()
    assert there.cpu().double().sum().item() == 2.0
    assert ((there * 0.5).dtype, (there.sum() * 0.5).dtype) == (torch.float32, torch.float32)  # Python's own numbers


def check_bfloat16_by_soc() -> None:
    there = torch.ones(2, 2, dtype=torch.bfloat16, device=NPU)
    supported = {"Ascend910B3", "Ascend910B4-1", "Ascend910_9391", "Ascend310B1", "Ascend950PR_9599"}
    for soc in (*supported, "Ascend910A", "Ascend910B", "Ascend910ProA", "Ascend910PremiumA", "Ascend310P3"):
        with on_soc(soc):
            assert torch.npu.is_bf16_supported() == (soc in supported)
            assert torch.npu.get_device_name() == soc
            if soc in supported:
                assert (there @ there).sum().item() == 8
                continue
            assert torch.bfloat16 not in torch.npu.get_amp_supported_dtype()
            for half in (lambda: there @ there, lambda: there.float(), lambda: torch.ones(2, device=NPU).bfloat16()):
                with pytest.raises(RuntimeError, match="bfloat16 is not to be had on Ascend"):
                    half()
            assert there.cpu().sum().item() == torch.ones(2, 2).bfloat16().to(NPU).cpu().sum().item() == 4
            assert (torch.ones(2, 2, device=NPU).half() @ torch.ones(2, 2, device=NPU).half()).sum().item() == 8

    for soc in ("Ascend910C", "910B3", ""):
        with on_soc(soc), pytest.raises(RuntimeError, match="Unsupported soc version"):
            torch.ones(1, device=NPU)


def check_other_libraries_kernels_raise() -> None:
    library = torch.library.Library("foreign", "FRAGMENT")
    library.define("quantize(Tensor x) -> Tensor")
    library.impl("quantize", lambda x: x, "CPU")
    assert torch.ops.foreign.quantize(torch.ones(1)).item() == 1
    with pytest.raises(NotImplementedError, match="foreign::quantize"):
        torch.ops.foreign.quantize(torch.ones(1, device=NPU))
