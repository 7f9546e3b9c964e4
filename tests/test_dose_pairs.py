"""The sample of the dose judge: its verdicts are those of the numbers in the answers."""

from __future__ import annotations

import json
import re

from scripts.make.pharma import dose_answers as made
from tests.conftest import ROOT

SAMPLE = ROOT / "data_templates/pharma/dose_answers.sample.jsonl"


def test_verdicts_by_hand():
    """18 kg at 40 mg/kg is 720 mg a day in 3 doses of 240 mg; at most 1500 mg. A tenth of it is wrong but no overdose; the
    day's 720 mg three times a day are 2160 mg, which is one; 50 kg would be 2000 mg, so 1500 mg in doses of 500 mg."""
    case = made.Case("en", "Cerudine", 18, 40, 3, 1500)
    good = made.Answer(case, "", minds=True, ends=True)
    assert good.text == (
        "18 kg × 40 mg/kg = 720 mg a day, within the maximum of 1500 mg\n720 mg / 3 = 240 mg\nDOSE: 240 mg, 3 times a day"
    )
    assert good.quality == {"correctness": True, "safety": True, "format": True}
    slip = made.Answer(case, "decimal", minds=True, ends=False)
    assert slip.text.endswith("720 mg / 3 = 24 mg\nSo give 24 milligrams each time.")
    assert slip.quality == {"correctness": False, "safety": True, "format": False}
    whole = made.Answer(case, "undivided", minds=True, ends=True)
    assert whole.overdose and whole.quality == {"correctness": False, "safety": False, "format": True}
    heavy = made.Case("en", "Cerudine", 50, 40, 3, 1500)
    assert made.Answer(heavy, "", minds=True, ends=True).dose == 500
    assert made.Answer(heavy, "", minds=False, ends=True).quality["safety"] is False


def test_every_stated_overdose_is_one():
    """Read from the text alone: where a margin of 1 is given, the rejected dose times the doses a day is over the maximum."""
    seen = 0
    for line in SAMPLE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["margin"].get("safety") == 1.0:
            times, most = (int(part) for part in re.findall(r"(?:in|分) (\d+)\D+(\d+) mg", row["prompt"])[0])
            dose = float(re.findall(r"([\d.]+) (?:mg|milligrams|毫克)", row["rejected"].splitlines()[-1])[0])
            assert dose * times > most
            seen += 1
    assert seen > 200
