"""`python -m tests.npu.record_fallbacks`, where the real torch_npu loads: writes site/torch_npu/fallbacks.txt.

The wheel loads without a card as soon as CANN's libraries are there, or libraries with their names and symbols.
"""

from __future__ import annotations

from typing import Any

import torch

from tests.npu.processes import SITE

COMPOSED = ("CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
UNREACHABLE = ("_test", "_foobar", "_scaled_dot_product_flash_attention_for_cpu")  # no op of another device calls these


def registered(key: str) -> set[str]:
    """Names of aten's ops with a kernel for this dispatch key, without `aten::`."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    return {name.removeprefix("aten::") for name in names if name.startswith("aten::")}


def fallbacks() -> list[str]:
    """Ops that the CPU computes, that are not composed of others, and for which there is no kernel of the device."""
    device = registered("PrivateUse1")
    candidates = registered("CPU") - device - set().union(*map(registered, COMPOSED))
    return sorted(
        name for name in candidates if not name.startswith(UNREACHABLE) and not _is_form_of_registered(name, device)
    )


def _is_form_of_registered(name: str, device: set[str]) -> bool:
    """An op that writes to out= while the device has the one that returns its result, which is what a card calls."""
    packet, _, overload = name.partition(".")
    ops = getattr(torch.ops.aten, packet)
    op = getattr(ops, overload or "default")
    if not any(argument.is_out for argument in op._schema.arguments):
        return False
    twins = [other for other in ops.overloads() if _inputs(getattr(ops, other)) == _inputs(op) and other != overload]
    return any((packet if twin == "default" else f"{packet}.{twin}") in device for twin in twins)


def _inputs(op: Any) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in op._schema.arguments if not argument.is_out]


if __name__ == "__main__":
    import torch_npu

    assert not hasattr(torch_npu, "emulator"), "this is the stand-in"
    (SITE / "torch_npu/fallbacks.txt").write_text("\n".join(fallbacks()) + "\n", encoding="utf-8")
