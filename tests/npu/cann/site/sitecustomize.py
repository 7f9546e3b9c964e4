"""Python imports this by itself from its path: whichever process imports torch_npu gets kernels and collectives with it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType


class WithKernels(importlib.abc.MetaPathFinder):
    """Finds torch_npu where it is, and adds tests/npu/cann to the end of its import."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch_npu":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_with_kernels(module: ModuleType) -> None:
                load(module)
                from tests.npu.cann import collectives, fused, kernels

                kernels.install()
                fused.install()
                collectives.install()

            spec.loader.exec_module = load_with_kernels
        return spec


sys.meta_path.insert(0, WithKernels())
