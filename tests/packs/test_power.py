"""Sums of a grid worked again with complex numbers and pint out of their questions; switching steps run on a model bay."""

from __future__ import annotations

import cmath
import json
import math
import re

import pint
import pytest

from finetune.evaluate.metrics import score
from scripts.make.power import grid_sums, switching_order
from tests.conftest import ROOT

UNITS = pint.UnitRegistry()


def rows(task: str) -> list[dict]:
    text = (ROOT / f"data_templates/power/{task}.sample.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
