"""The meteorology pack against judges that did not make its answers: decoders, official columns, regulations, other formulas."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.evaluate.metrics import aggregate, score_rows
from finetune.recipe_data import SourceSection
from scripts.make.meteorology import flight_category, vtec, warning_facts, warning_level
from tests.conftest import ROOT
from tests.packs.reading import published, shipped

real = partial(published, "meteorology")

sample = partial(shipped, "meteorology")

TEMPLATES = ROOT / "data_templates/meteorology"


@cache
def perfect(task: str, file: Path) -> tuple[int, set[float]]:
    """How many samples the template makes of a file's rows, and the scores of its own answers."""
    template = load_template(TEMPLATES / f"{task}.yaml")
    samples = template.render_all(read_source(SourceSection(path=str(file))))
    answers = [sample.answer for sample in samples]
    scores = aggregate(score_rows(answers, answers, [template.metric] * len(answers)))
    return len(samples), set(scores.values())


def written(rows: list[dict], folder: Path) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def category_by_rule(row: dict) -> str:
    """Ceiling and visibility against the bounds of the National Weather Service (Aviation Weather Center, METAR help)."""
    ceiling, miles = row["ceiling_ft"], row["visibility_statute_mi"]
    if (ceiling is not None and ceiling < 500) or miles < 1:
        return "LIFR"
    if (ceiling is not None and ceiling < 1000) or miles < 3:
        return "IFR"
    return "MVFR" if (ceiling is not None and ceiling <= 3000) or miles <= 5 else "VFR"


def test_the_rule_gives_every_official_category_of_the_sample():
    rows = sample("flight_category")
    assert Counter(row["flight_category"] for row in rows) == {"VFR": 380, "MVFR": 380, "IFR": 179, "LIFR": 86}
    assert [row["raw_text"] for row in rows if category_by_rule(row) != row["flight_category"]] == []
    assert len({row["station_id"] for row in rows}) == len(rows)


def test_the_rule_gives_every_official_category_of_the_cache(tmp_path):
    """4,684 reports, 4,163 with a category; the sky or visibility of 50 is read otherwise by the second decoder, 9 say VV///."""
    rows = list(flight_category.read(real("metar_awc/metars_20221022_0253Z.csv")))
    assert Counter(row["flight_category"] for row in rows) == {"VFR": 3389, "MVFR": 450, "IFR": 179, "LIFR": 86}
    assert [row["raw_text"] for row in rows if category_by_rule(row) != row["flight_category"]] == []
    assert flight_category.balanced(rows) == sample("flight_category")
    assert perfect("flight_category", written(rows, tmp_path)) == (4104, {1.0})


# Places that keep the zone which a product names; those of standard time keep it all year.
PLACES = {
    "EST": "America/Panama", "CST": "America/Regina", "MST": "America/Phoenix", "PST": "America/Los_Angeles",
    "EDT": "America/New_York", "CDT": "America/Chicago", "MDT": "America/Denver", "PDT": "America/Los_Angeles",
    "AST": "America/Puerto_Rico", "CHST": "Pacific/Guam", "HST": "Pacific/Honolulu", "AKST": "America/Anchorage",
    "AKDT": "America/Anchorage",
}  # fmt: skip
SPOKEN = re.compile(
    r"(?i)\b(?:until|to|expires? at)\s+(?:(\d{1,2}?)(\d\d)?\s+([AP])M|(noon|midnight))\s+(\w+T)\b"
    r"(?:\s+((?:mon|tues|wednes|thurs|fri|satur|sun)day)( night)?)?"
)


def spoken_end(text: str, utc: datetime) -> tuple[str, str, str | None, str]:
    """The clock time and weekday (or None) that the prose names, each before VTEC's on the clock of that zone's place."""
    said = SPOKEN.search(text)
    assert said is not None, text
    hour, minute, half, word, zone, weekday, night = said.groups()
    moment = datetime.strptime(
        {"noon": "1200PM", "midnight": "1200AM"}.get((word or "").lower()) or f"{int(hour):02d}{minute or '00'}{half}M",
        "%I%M%p",
    )
    local = utc.astimezone(ZoneInfo(PLACES[zone.upper()]))
    evening = local - timedelta(hours=1) if night else local  # midnight of Saturday night is the first minute of Sunday
    return moment.strftime("%H:%M"), local.strftime("%H:%M"), weekday and weekday.title(), evening.strftime("%A")


def check_facts(rows: list[dict]) -> Counter:
    """Ends of prose and VTEC, local and UTC; returns how many rows had a clock time, a weekday..."""
    compared: Counter = Counter()
    for row in rows:
        if row["until_utc"] is None:
            compared[row["until"]] += 1
            assert (row["until"] == "further notice") == ("until further notice" in row["text"].lower())
            continue
        ends = spoken_end(row["text"], datetime.fromisoformat(row["until_utc"]))
        assert ends[0] == ends[1] == row["until"] and ends[2] in (None, ends[3]), row
        compared["clock"] += 1
        compared["weekday"] += ends[2] is not None
    return compared


def test_made_up_warnings_say_what_their_vtec_says():
    """The prose, read a second time with the zone database, names the end of the VTEC line in every row."""
    rows = sample("warning_facts")
    compared = check_facts(rows)
    assert compared["clock"] + compared["none"] + compared["further notice"] == len(rows) and compared["weekday"] > 400
    for row in rows:
        heading = row["text"].splitlines()[0].split()
        assert heading[1] == row["office"] and row["event"].lower() in row["text"].lower()


def test_real_warnings_say_what_their_vtec_says(tmp_path):
    """583 products, 530 segments with VTEC: 309 rows, of which the prose of 262 names a clock time and of
    136 a weekday too, as VTEC does."""
    rows = list(warning_facts.read(real("nws_products")))
    assert check_facts(rows) == {"clock": 262, "weekday": 136, "none": 31, "further notice": 16}
    assert perfect("warning_facts", written(rows, tmp_path)) == (309, {1.0})


def test_segments_of_real_warnings_are_left_out_for_these_reasons():
    products = [file.read_bytes().decode("latin-1") for file in sorted(real("nws_products").rglob("*.txt"))]
    assert len(products) == 583 + 1  # and the README
    assert Counter(found.left_out for text in products for found in vtec.segments(text, "")) == {
        "": 309,
        "the prose names no end": 96,
        "several VTEC lines": 85,
        "test, or an action or event that the prose does not name": 27,
        "the prose does not name the event": 11,
        "no heading, no issuing time or no prose": 2,
    }


@pytest.mark.parametrize("task", ("flight_category", "warning_facts", "warning_level"))
def test_perfect_answers_score_one(task):
    assert perfect(task, TEMPLATES / f"{task}.sample.jsonl") == (len(sample(task)), {1.0})


# What the 44 criteria of order No. 16 say in numbers: quantity, pattern.
PATTERNS = {
    "wind": r"平均风力可?达?(\d+)级以上", "gust": r"阵风达?(\d+)级以上", "rain": r"降雨量将达(\d+)毫米以上",
    "snow": r"降雪量将达(\d+)毫米以上", "drop": r"将要下降(\d+)℃以上", "low": r"最低气温小于等于(\d+)℃",
    "visibility": r"能见度小于(\d+)米", "high": r"最高气温将(?:在|升至)(\d+)℃以上", "crops": r"(\d+)%以上的农作物",
    "ground": r"将要下降到(零下\d+|\d+)℃以下", "road": r"路表温度低于(\d+)℃",
}  # fmt: skip
HAZARDS = {
    "台风": "typhoon", "暴雨": "rainstorm", "暴雪": "snowstorm", "寒潮": "cold_wave", "大风": "gale",
    "沙尘暴": "sandstorm", "高温": "heat", "干旱": "drought", "霜冻": "frost", "大雾": "fog", "霾": "haze",
    "道路结冰": "road_ice",
}  # fmt: skip
COLOURS = {"蓝色": "blue", "黄色": "yellow", "橙色": "orange", "红色": "red"}


def parsed_criteria() -> tuple[dict, list[str]]:
    """Of each hazard and level the hours and bounds, read from the text; and the rows without a number of these."""
    found, silent = {}, []
    file = real("cma_warning_signals/criteria.jsonl")
    for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        text = row["criterion"].replace("，", ",")
        bounds = {name: match[1] for name, pattern in PATTERNS.items() if (match := re.search(pattern, text))}
        if not bounds:
            silent.append(f"{row['hazard']}{row['level']}")
            continue
        hours = re.search(r"(\d+)小时内", text)
        limits = {name: float(bound.replace("零下", "-")) for name, bound in bounds.items()}
        if "连续三天" in text:
            limits["days"] = 3.0
        found[HAZARDS[row["hazard"]], COLOURS[row["level"]]] = (int(hours[1]) if hours else None, limits)
    return found, silent


def test_the_criteria_are_those_of_the_order():
    """39 of 44 criteria have numbers; lightning and hail (5) have none and are not in the task."""
    found, silent = parsed_criteria()
    assert silent == ["雷电黄色", "雷电橙色", "雷电红色", "冰雹橙色", "冰雹红色"] and len(found) == 39
    own = {}
    for hazard, (quantities, _, levels) in warning_level.CRITERIA.items():
        for level, (hours, bounds) in levels.items():
            limits = {name: bound for (name, _), bound in zip(quantities, bounds, strict=True)}
            own[hazard, level] = (hours, limits)
            if hazard == "heat" and level != "yellow":
                assert limits.pop("days") == 1
    for key, (hours, limits) in found.items():
        assert own[key][1] == limits, key
        assert hours in (own[key][0], None), key
    assert found.keys() == own.keys()
    assert {key for key, (hours, _) in found.items() if hours is None} == {
        ("heat", "yellow"),
        ("drought", "orange"),
        ("drought", "red"),
    }


def level_by_text(row: dict, criteria: dict) -> str:
    """The highest level all of whose bounds (typhoon, gale: one) are met, by the bounds read from the order's text."""
    for level in ("red", "orange", "yellow", "blue"):
        hours, limits = criteria.get((row["hazard"], level), (None, None))
        if limits is None or (hours is not None and row["hours"] > hours):
            continue
        met = []
        for name, limit in limits.items():
            below, least = name in ("visibility", "road"), name in ("low", "ground")
            met.append(row[name] < limit if below else row[name] <= limit if least else row[name] >= limit)
        if any(met) if row["hazard"] in ("typhoon", "gale") else all(met):
            return level
    return "none"


def test_levels_are_those_that_the_text_of_the_order_gives():
    criteria, _ = parsed_criteria()
    rows = sample("warning_level")
    assert [row["case_id"] for row in rows if level_by_text(row, criteria) != row["level"]] == []
    assert {row["language"] for row in rows} == {"en", "zh"} and {row["level"] for row in rows} >= {"red", "none"}


@pytest.mark.parametrize(
    ("hazard", "hours", "values", "level"),
    (
        ("rainstorm", 3, {"rain": 99}, "orange"),  # 50 mm in 3 h, short of the 100 of red
        ("rainstorm", 6, {"rain": 120}, "yellow"),  # within 6 h: nobody says how much in 3
        ("rainstorm", 24, {"rain": 120}, "none"),
        ("typhoon", 6, {"wind": 9, "gust": 14}, "red"),  # the gust alone is enough
        ("cold_wave", 24, {"drop": 16, "low": 1, "wind": 7}, "yellow"),  # orange and red want 0 °C or less
        ("frost", 48, {"ground": -6}, "blue"),  # the others look 24 h ahead
        ("fog", 0, {"visibility": 200}, "yellow"),  # below 200 m is orange, 200 m is not
        ("heat", 24, {"high": 36, "days": 2}, "none"),
    ),
)
def test_levels_by_hand(hazard, hours, values, level):
    assert warning_level.level_of(hazard, hours, values) == level
