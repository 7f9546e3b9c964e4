"""Every request is read a second time, by patterns: the call that it asks for, what it lacks, or what stands against it."""

from __future__ import annotations

import json
import re

import pytest

from finetune.data.rows import Row
from finetune.data.template import load_template
from finetune.errors import DataError
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
