"""Every request is read a second time, by patterns: the call that it asks for, what it lacks, or what stands against it.

Fits are worked again from limits in millimetres, and their tables are held against the formulas of ISO 286-1.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal

import pytest

from finetune.data.rows import Row
from finetune.data.template import load_template
from finetune.errors import DataError
from scripts.make.manufacturing.fit_limits import GRADES, LOWER, UP_TO, UPPER
from tests.conftest import ROOT

TEMPLATE = ROOT / "data_templates/manufacturing/equipment_calls.yaml"
ACTIONS = (  # the first that fits
    ("schedule_maintenance", r"lubrication|calibration|inspection|overhaul|润滑|校准|点检|大修"),
    ("query_alarms", r"[Aa]larm|报警"),
    ("stop_equipment", r"[Ss]top|[Ss]hut|out of operation|kill|停"),
    ("set_speed", r"rpm|r/min|转速|转/分|转每分|faster|slow|[Ss]peed|快一点|提速"),
    ("set_temperature", r"°C|Celsius|℃|摄氏|hotter|too hot|setpoint|温度|降温"),
    ("start_equipment", r"[Ss]tart|into operation|[Ss]witch|启动|投入运行|开"),
)
EMERGENCY = r"[Ee]mergency|at once|紧急|急停"
WORK = {"润滑": "lubrication", "校准": "calibration", "点检": "inspection", "大修": "overhaul"}
SETTINGS = {"set_speed": ("speed", "rpm"), "set_temperature": ("temperature", "celsius")}


def rows() -> list[dict]:
    text = TEMPLATE.with_suffix("").with_suffix(".sample.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def judged(row: dict) -> tuple[str, dict | str]:
    """The decision, and the call's arguments or a word that the reply must have."""
    request = row["request"]
    tag = re.search(r"[A-Z]-\d{3}", request)
    action = next(name for name, words in ACTIONS if re.search(words, request))
    if tag is None:
        return "ask", {"en": "equipment tag", "zh": "设备位号"}[row["language"]]
    machine = next((machine for machine in row["machines"] if machine["tag"] == tag[0]), None)
    if machine is None:
        return "refuse", tag[0]
    given: dict = {"equipment": tag[0]}
    rest = request.replace(tag[0], "")
    if action in SETTINGS:
        setting, name = SETTINGS[action]
        value = re.search(r"-?\d+", rest)
        if machine[setting] is None:
            return "refuse", {"en": "has no", "zh": "不能"}[row["language"]]
        if value is None:
            return "ask", {"speed": r"rpm|转速", "temperature": r"°C|℃"}[setting]
        low, high = machine[setting]
        if not low <= int(value[0]) <= high:
            return "refuse", rf"{low}\D+{high}"
        given[name] = int(value[0])
    if action == "stop_equipment":
        given["mode"] = "emergency" if re.search(EMERGENCY, request) else "normal"
    if action == "query_alarms":
        given["hours"] = int(re.search(r"\d+", rest)[0])
    if action == "schedule_maintenance":
        day = re.search(r"\d{4}-\d\d-\d\d", rest)
        if day is None:
            return "ask", r"date|日期"
        work = re.search(ACTIONS[0][1], rest)[0]
        given |= {"work": WORK.get(work, work), "date": day[0]}
    return "call", {"name": action, "arguments": given}


def test_every_request_gets_the_call_the_question_or_the_refusal_that_a_second_reader_gives():
    decisions = {"call": 0, "ask": 0, "refuse": 0}
    for row in rows():
        decision, what = judged(row)
        assert row["decision"] == decision, row
        if decision == "call":
            assert row["call"] == what, row
        else:
            assert row["call"] is None and re.search(str(what), row["reply"]), row
        decisions[decision] += 1
    assert sum(decisions.values()) == 1000 and min(decisions.values()) >= 180


def test_values_at_the_ends_of_a_range_are_taken_and_one_beyond_is_refused():
    ends = beyond = 0
    for row in rows():
        for setting, name in SETTINGS.values():
            limits = next((m[setting] for m in row["machines"] if m["tag"] == row["tag"]), None)
            value = (row["call"] or {}).get("arguments", {}).get(name)
            ends += value is not None and value in limits
            told = re.search(r"-?\d+(?= ?(?:rpm|r/min|转|°C|degrees|℃|摄氏))", row["request"])
            near = limits and told and row["decision"] == "refuse"
            beyond += bool(near and int(told[0]) in (limits[0] - 1, limits[1] + 1))
    assert ends >= 40 and beyond >= 15


def test_a_call_outside_the_schema_is_refused_before_training():
    row = next(row for row in rows() if row["call"] and row["call"]["name"] == "stop_equipment")
    row["call"]["arguments"]["mode"] = "gentle"
    with pytest.raises(DataError, match="stop_equipment"):
        load_template(TEMPLATE).render_all([Row(row, "rows.jsonl", 1)])


def test_every_fit_is_worked_again_from_its_prompt():
    """In millimetres, from the deviations as the prompt writes them, each checked line of the answer from its text."""
    template = load_template(ROOT / "data_templates/manufacturing/fit_limits.yaml")
    file = ROOT / "data_templates/manufacturing/fit_limits.sample.jsonl"
    kinds = {"clearance": "间隙", "transition": "过渡", "interference": "过盈"}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        [sample] = template.render_all([Row(json.loads(line), "rows.jsonl", number)])
        size, *deviations = re.findall(r"Φ(\d+)|([+-]\d+)", sample.prompt[-1]["content"])
        hole_up, hole_low, shaft_up, shaft_low = (Decimal(size[0]) + Decimal(text) / 1000 for _, text in deviations)
        largest, smallest = (hole_up - shaft_low) * 1000, (hole_low - shaft_up) * 1000
        kind = "clearance" if smallest >= 0 else "transition" if largest > 0 else "interference"
        lines = [told.partition(": ")[2] for told in sample.answer.splitlines()]
        assert lines[:2] == [f"{hole_low:.3f}-{hole_up:.3f}", f"{shaft_low:.3f}-{shaft_up:.3f}"]
        assert [int(told.split(" = ")[1]) for told in lines[2:4]] == [largest, smallest]
        assert lines[4] in (kind, kinds[kind])


def test_tables_are_near_the_formulas_that_they_were_made_by():
    """ISO 286-1: i = 0.45 D^(1/3) + 0.001 D (µm, mm; D the geometric mean of the range), IT6 to IT9 = 10, 16, 25, 40 i;
    e -11 D^0.41, f -5.5 D^0.41, g -2.5 D^0.34, n 5 D^0.34, m IT7 - IT6, p IT7 and 0 to 5 more. The standard rounds:
    within 1.5 µm or 4 %.
    """
    for place, (low, high) in enumerate(zip((3, *UP_TO), UP_TO, strict=False)):
        mean = math.sqrt(low * high)
        unit = 0.45 * mean ** (1 / 3) + 0.001 * mean
        wanted = {6: 10 * unit, 7: 16 * unit, 8: 25 * unit, 9: 40 * unit}
        wanted |= {"e": -11 * mean**0.41, "f": -5.5 * mean**0.41, "g": -2.5 * mean**0.34, "n": 5 * mean**0.34}
        wanted |= {"m": GRADES[7][place] - GRADES[6][place], "p": GRADES[7][place] + 2.5}
        for name, value in wanted.items():
            table = (GRADES | UPPER | LOWER)[name][place]
            assert abs(table - value) <= max(2.5 if name == "p" else 1.5, 0.04 * abs(value)), (name, high, table, value)


def test_fits_by_hand():
    """Φ25 H7/g6 of any handbook: hole +21 0, shaft -7 -20; Φ50 H8/f7: +39 0, -25 -50; Φ30 H7/p6: +21 0, +35 +22."""
    place = {25: 3, 50: 4, 30: 3}
    assert (GRADES[7][place[25]], UPPER["g"][place[25]], UPPER["g"][place[25]] - GRADES[6][place[25]]) == (21, -7, -20)
    assert (GRADES[8][place[50]], UPPER["f"][place[50]], UPPER["f"][place[50]] - GRADES[7][place[50]]) == (39, -25, -50)
    assert (LOWER["p"][place[30]], LOWER["p"][place[30]] + GRADES[6][place[30]]) == (22, 35)
