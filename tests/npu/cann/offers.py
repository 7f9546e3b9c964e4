"""What the torch_npu of this process offers of the names on stdin (a JSON list of tests/npu/names.Use): JSON on stdout.

For each name `parameters` (name, whether it has a default) and `problems`: it is missing, or a call does not fit it.
`operators`: those that have a kernel of the device's, and those that autocast knows for it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from typing import Any

import torch
import torch_npu  # noqa: F401 (with it comes torch.npu)


def find(name: str) -> Any:
    """The object of a dotted name: modules are imported on the way.

    Raises:
        AttributeError, ImportError: there is none.
    """
    parts = name.split(".")
    found = importlib.import_module(parts[0])
    for end, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part) and inspect.ismodule(found) and not name.startswith("torch.ops"):
            importlib.import_module(".".join(parts[:end]))
        found = getattr(found, part)
    return found


def signature(found: Any) -> inspect.Signature | None:
    """An operator's from its schema. None where Python can't tell: written in C."""
    if isinstance(found, torch._ops.OpOverloadPacket):
        arguments = found.default._schema.arguments
        return inspect.Signature(
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY if each.kwarg_only else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=each.default_value if each.has_default_value() else inspect.Parameter.empty,
            )
            for each in arguments
        )
    try:
        return inspect.signature(found)
    except (TypeError, ValueError):
        return None


def problem(use: dict[str, Any]) -> str | None:
    owner, _, last = use["name"].rpartition(".")
    try:
        if use["stored"]:  # torch.npu.config takes every name, and answers for none
            place = find(owner)
            known = hasattr(place, last) or f'"{last}"' in inspect.getsource(type(place))
            return None if known else "nothing that can be set"
        found = find(use["name"])
    except (AttributeError, ImportError) as error:
        return f"{type(error).__name__}: {error}"
    called = signature(found) if use["positional"] is not None else None
    if called is None:
        return None
    try:
        called.bind(*[None] * use["positional"], **dict.fromkeys(use["keywords"]))
    except TypeError as error:
        return f"called with {use['positional']} arguments and {use['keywords']}, but: {error}"
    return None


def parameters(name: str) -> list[list[Any]] | None:
    try:
        found = signature(find(name))
    except (AttributeError, ImportError):
        return None
    return found and [[each.name, each.default is not each.empty] for each in found.parameters.values()]


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    problems = [f"{use['where']}: {use['name']}: {said}" for use in asked if (said := problem(use))]
    offered = {use["name"]: parameters(use["name"]) for use in asked}
    lists = {
        key: torch._C._dispatch_get_registrations_for_dispatch_key(key)
        for key in ("AutocastPrivateUse1", "PrivateUse1")
    }
    json.dump({"problems": problems, "parameters": offered, "operators": lists}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # without the device's shutdown, which takes a second
