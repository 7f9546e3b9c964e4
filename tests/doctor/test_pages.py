"""docs/doctor.md and docs/doctor.zh-CN.md: every state and every documented pair that a job can use is on both pages."""

from __future__ import annotations

import re

import pytest

from finetune.device.compatibility import PAIRINGS, PROCESSORS, PYTHONS, processor
from finetune.device.npu_probe import CAUSES
from finetune.doctor.packages import within
from tests.conftest import ROOT

PAGES = ["docs/doctor.md", "docs/doctor.zh-CN.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_state_is_on_the_page(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    probes = {"version_mismatch", "no_device", "wrong_result", "crashed", "hung", "failed"}
    missing = {status for _, status, _ in CAUSES} | probes
    assert sorted(status for status in missing if f"`{status}`" not in text) == []


@pytest.mark.parametrize("page", PAGES)
def test_the_matrix_on_the_page_is_the_one_that_is_used(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (2\.[\w.]+) \| ([\d.]+) \| ([\d.]+) \| (3\.\d+) \S+ (3\.\d+) \|$", text, re.M)
    assert [row[:3] for row in rows] == [
        (row.torch_npu, row.torch, row.cann) for row in PAIRINGS if within(row.torch, ">=2.10")
    ]
    assert all((first, last) == (PYTHONS[torch][0], PYTHONS[torch][-1]) for _, torch, _, first, last in rows)


@pytest.mark.parametrize("page", PAGES)
def test_the_processors_on_the_page_are_the_ones_that_are_known(page):
    text = (ROOT / page).read_text(encoding="utf-8").split("bfloat16 | |\n")[1]
    names = re.findall(r"\b(?:910|310)(?:B\d\w*(?:-\d)?|_9\d{3}|P\d|[AB]|Pro[AB]|PremiumA)\b", text)
    assert len(names) > 12
    assert [name for name in names if processor(name) is None] == []
    assert len(PROCESSORS) == 7
