"""Runs them all; prints {name of a check: "" or its traceback} as JSON."""

from __future__ import annotations

import json
import traceback

import torch

from tests.npu.checks import CHECKS


def main() -> None:
    import torch_npu  # noqa: F401

    torch.set_num_threads(1)
    found = {}
    for name, check in CHECKS.items():
        try:
            check()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
