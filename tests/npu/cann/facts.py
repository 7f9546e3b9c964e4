"""Facts about the real torch_npu on the fake CANN runtime, as JSON on stdout; on stdin the SoC names to ask for."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
import torch_npu


def bf16(soc: str) -> bool | str:
    """What torch_npu says of a SoC, or its error: asked in a fork, as it asks CANN once a process."""
    receive, send = os.pipe()
    if os.fork() == 0:
        os.environ["FAKE_NPU_SOC"] = soc
        try:
            answer: bool | str = torch.npu.is_bf16_supported()
        except RuntimeError as error:
            answer = str(error).split("\n")[0]
        os.write(send, json.dumps(answer).encode())
        os._exit(0)
    os.wait()
    os.close(send)
    with os.fdopen(receive) as answer_pipe:
        return json.load(answer_pipe)


def schema(name: str) -> list[list[Any]]:
    """Names and defaults of an operator's arguments; a default of none where there is none."""
    arguments = getattr(torch.ops.npu, name).default._schema.arguments
    return [[each.name, *([each.default_value] if each.has_default_value() else [])] for each in arguments]


def format_setting() -> str:
    """What reading torch.npu.config.allow_internal_format gives after it is set."""
    torch.npu.config.allow_internal_format = False
    try:
        return str(torch.npu.config.allow_internal_format)
    except AttributeError:
        return "AttributeError"


def generators() -> list[Any]:
    """Sizes of the devices' generator states, and whether setting them brings the same numbers again."""
    torch.npu.manual_seed_all(7)
    states = torch.npu.get_rng_state_all()
    first = torch.rand(3, device="npu").tolist()
    torch.npu.set_rng_state_all(states)
    return [[state.numel() for state in states], torch.rand(3, device="npu").tolist() == first]


def memory() -> list[int]:
    """Bytes: the device's, the peak of two tensors of 4 MiB, that of one after it was reset, and what both took of it."""
    torch.npu.empty_cache()
    torch.npu.reset_peak_memory_stats()
    before = torch.npu.memory_allocated()
    one, two = (torch.empty(1 << 20, device="npu") for _ in range(2))
    peak = torch.npu.max_memory_allocated() - before
    del one
    torch.npu.reset_peak_memory_stats()
    after = torch.npu.max_memory_allocated() - before
    free, total = torch.npu.mem_get_info()
    assert two.numel() and free <= total - peak
    return [total, peak, after]


if __name__ == "__main__":
    socs = {soc: bf16(soc) for soc in json.load(sys.stdin)}  # before this process asks
    from accelerate.utils import is_npu_available
    from transformers.utils import is_torch_npu_available

    torch.npu.set_compile_mode(jit_compile=False)
    facts = {
        "socs": socs,
        "version": torch_npu.__version__,
        "autoload": os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD"),
        "available": [torch.npu.is_available(), is_npu_available(), is_torch_npu_available()],
        "devices": [
            torch.npu.device_count(),
            torch.npu.get_device_name(0),
            torch.accelerator.current_accelerator().type,
        ],
        "hccl": [dist.is_backend_available("hccl"), dist.Backend.default_device_backend_map.get("npu")],
        "jit_compile_false": torch.npu.is_jit_compile_false(),
        "allow_internal_format": format_setting(),
        "generators": generators(),
        "memory": memory(),
        "double": str(torch.ones(1, device="npu").double().dtype),
        "schemas": {
            name: schema(name) for name in ("npu_rms_norm", "npu_rotary_mul", "npu_swiglu", "npu_fusion_attention")
        },
    }
    torch.npu.synchronize()
    json.dump(facts, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # without the device's shutdown, which takes a second
