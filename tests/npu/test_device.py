"""The emulated device, checked in a process of its own; importing torch there is most of what it costs."""

from __future__ import annotations

import json

import pytest

from tests.npu.checks import CHECKS
from tests.npu.processes import NEEDS_TORCH, python

pytestmark = NEEDS_TORCH


@pytest.fixture(scope="module")
def checked() -> dict[str, str]:
    return json.loads(python("-m", "tests.npu.checks").splitlines()[-1])


@pytest.mark.parametrize("name", CHECKS)
def test_device(name, checked):
    assert checked[name] == "", checked[name]
