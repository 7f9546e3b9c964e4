"""Puts all of it in place, once per process: torch lets PrivateUse1 be named once."""

from __future__ import annotations

from types import ModuleType

import torch
from torch.utils import backend_registration

from torch_npu import attention, autocast, hccl, kernels, random_state, storage
from torch_npu.dispatch import run_on_cpu

_kept: list[torch.library.Library] = []  # what a library object registers goes with it


def install(module: ModuleType) -> None:
    """The device `npu` with `module` as torch.npu."""
    backend_registration._setup_privateuseone_for_python_backend(rename="npu", backend_module=module)
    backend_registration._generate_storage_methods_for_privateuse1_backend("npu")
    storage.install()
    random_state.install()
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(run_on_cpu, "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, autocast.KEY)
    aten = torch.library.Library("aten", "IMPL")
    for part in (kernels, attention, autocast):
        part.install(aten)
    aten.impl("_pin_memory", kernels.pin, "CPU")
    _kept.extend((everything, aten))
    # Python's device guard says that there is one device: a thread for the gradients of npu:1 there is not.
    torch._C._set_multithreading_enabled(False)
    hccl.install()
