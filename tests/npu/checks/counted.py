"""What makes the host wait is counted, and what does not is not."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.npu.checks.common import NPU, counting


def check_syncs_are_counted() -> None:
    value = torch.arange(6, device=NPU)
    mask = value > 2
    asking = {
        "item": lambda: value[0].item(), "bool": lambda: bool(mask[0]), "float": lambda: float(value[1]),
        "cpu": lambda: value.cpu(), "tolist": lambda: value.tolist(), "nonzero": lambda: mask.nonzero(),
        "index": lambda: value[mask], "masked_select": lambda: value.masked_select(mask), "unique": lambda: value.unique(),
        "equal": lambda: torch.equal(value, value), "index_put": lambda: value.clone().index_put_((mask,), value[:3]),
        "repeat_interleave": lambda: torch.repeat_interleave(value), "bincount": lambda: torch.bincount(value),
        "copy_": lambda: torch.ones(6).copy_(value), "not pinned": lambda: torch.ones(6).copy_(value, non_blocking=True),
    }  # fmt: skip
    for name, ask in asking.items():
        with counting() as found:
            ask()
        assert found == {"syncs": 1, "fallbacks": 0, "uploads": 0}, (name, found)
    with counting() as found:
        (
            value[value.flip(0)],
            value + 1,
            value.view(2, 3).sum(0),
            value.masked_fill(mask, 0),
            torch.where(mask, value, 0),
        )
        torch.npu.synchronize()
        torch.cat([value, value]).sort()
        torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
        value.to(NPU), value.float().to(torch.int32), torch.zeros(3, device=NPU), value.clone()
    assert found == {"syncs": 0, "fallbacks": 0, "uploads": 0}, found


def check_uploads_and_fallbacks_are_counted() -> None:
    with counting() as found:
        value = torch.eye(3).to(NPU)
        value.copy_(torch.ones(3))
        torch.tensor([1.0], device=NPU)
    assert found == {"syncs": 0, "fallbacks": 0, "uploads": 3}
    with counting() as found:
        torch.linalg.matrix_exp(value)
        torch.ones(3, device=NPU).digamma()
    assert found["fallbacks"] == 2


def check_sites_tell_the_line() -> None:
    import torch_npu

    torch_npu.emulator.reset()
    value = torch.arange(6, device=NPU)
    for _ in range(3):
        int(value.sum())
    sites = torch_npu.emulator.sites("syncs")
    (site, times), *others = sites.items()
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "int(value.sum" in text)
    assert (times, others) == (3, [])
    assert site == ("syncs", "_local_scalar_dense", f"tests/npu/checks/counted.py:{line}", "")
    code = "def count(x):\n    return x.nonzero()\n"
    ours = {"__name__": "finetune.step"}
    exec(compile(code, "/anywhere/finetune/step.py", "exec"), ours)
    ours["count"](value)
    assert {site.ours for site in torch_npu.emulator.sites()} == {"", "finetune/step.py:2"}
