"""What the emulated device does, in one process of its own: `python -m tests.npu.checks` with tests/npu/site on PYTHONPATH.

torch_npu is imported there only: in the process of the tests the functions are looked at, not run.
"""

from __future__ import annotations

from tests.npu.checks import counted, fused, randomness, refused, surroundings, tensors

CHECKS = {
    name.removeprefix("check_"): function
    for module in (tensors, randomness, refused, counted, fused, surroundings)
    for name, function in vars(module).items()
    if name.startswith("check_")
}
