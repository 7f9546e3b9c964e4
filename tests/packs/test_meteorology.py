"""The meteorology pack against judges that did not make its answers: decoders, official columns, regulations, other formulas."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from pymetdecoder.synop import SYNOP

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.recipe_data import SourceSection
from scripts.make.meteorology import flight_category, metpy_quantities, synop_decode, warning_facts, warning_level
from tests.conftest import ROOT

REAL = ROOT.parent / "shared/data/meteorology"
TEMPLATES = ROOT / "data_templates/meteorology"


@cache
def sample(task: str) -> list[dict]:
    text = (TEMPLATES / f"{task}.sample.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def real(name: str) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"no real data at {path}")
    return path


def rendered(task: str, rows: list[dict], folder: Path) -> list[str]:
    """The answers that the template writes for rows."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    samples = load_template(TEMPLATES / f"{task}.yaml").render_all(read_source(SourceSection(path=str(file))))
    return [sample.answer for sample in samples]


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
    assert len(rendered("flight_category", rows, tmp_path)) == 4104


# Places that keep the zone which a product names; those of standard time keep it all year.
PLACES = {
    "EST": "America/Panama", "CST": "America/Regina", "MST": "America/Phoenix", "PST": "America/Los_Angeles",
    "EDT": "America/New_York", "CDT": "America/Chicago", "MDT": "America/Denver", "PDT": "America/Los_Angeles",
    "AST": "America/Puerto_Rico", "CHST": "Pacific/Guam", "HST": "Pacific/Honolulu", "AKST": "America/Anchorage",
    "AKDT": "America/Anchorage",
}  # fmt: skip
SPOKEN = re.compile(r"(?i)\b(?:until|to|expires? at)\s+(?:(\d{1,2}?)(\d\d)?\s+([AP])M|(noon|midnight))\s+(\w+T)\b")


def spoken_end(text: str, utc: datetime) -> tuple[str, str] | None:
    """The end that the prose names, HH:MM, and the same moment of VTEC on the clock of that zone's place."""
    said = SPOKEN.search(text)
    if said is None:
        return None
    hour, minute, half, word, zone = said.groups()
    moment = datetime.strptime(
        {"noon": "1200PM", "midnight": "1200AM"}.get((word or "").lower()) or f"{int(hour):02d}{minute or '00'}{half}M",
        "%I%M%p",
    )
    return moment.strftime("%H:%M"), utc.astimezone(ZoneInfo(PLACES[zone.upper()])).strftime("%H:%M")


def check_facts(rows: list[dict]) -> Counter:
    """Ends of prose and VTEC, local and UTC; returns how many rows had an end to compare."""
    compared: Counter = Counter()
    for row in rows:
        if row["until_utc"] is None:
            compared[row["until"]] += 1
            assert (row["until"] == "further notice") == ("until further notice" in row["text"].lower())
            continue
        ends = spoken_end(row["text"], datetime.fromisoformat(row["until_utc"]))
        assert ends is not None and ends[0] == ends[1] == row["until"], row
        compared["clock"] += 1
    return compared


def test_made_up_warnings_say_what_their_vtec_says():
    """The prose, read a second time with the zone database, names the end of the VTEC line in every row."""
    rows = sample("warning_facts")
    assert sum(check_facts(rows).values()) == len(rows)
    for row in rows:
        heading = row["text"].splitlines()[0].split()
        assert heading[1] == row["office"] and row["event"].lower() in row["text"].lower()


def test_real_warnings_say_what_their_vtec_says(tmp_path):
    """583 products, 530 segments with VTEC: 309 rows, of which the prose of 262 names a clock time, as VTEC does."""
    rows = list(warning_facts.read(real("nws_products")))
    assert check_facts(rows) == {"clock": 262, "none": 31, "further notice": 16}
    assert len(rendered("warning_facts", rows, tmp_path)) == len(rows) == 309


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


def decoded_synop(report: str) -> dict:
    """Values of a report by pymetdecoder, named as the columns."""
    found = SYNOP().decode(report)

    def value(name: str, *inner: str):
        at = found.get(name)
        for key in inner:
            at = at and at.get(key)
        return at and at["value"]

    rain = found.get("precipitation_s1")
    change = value("pressure_tendency", "change")
    return {
        "station": found["station_id"]["value"],
        "day": found["obs_time"]["day"]["value"],
        "hour": found["obs_time"]["hour"]["value"],
        "unit": found["wind_indicator"]["unit"].lower(),
        "wind_dir": value("surface_wind", "direction") or None,
        "wind_speed": found["surface_wind"]["speed"]["value"],
        "visibility_m": found["visibility"]["value"],
        "cover": found["cloud_cover"]["value"],
        "base_m": found["lowest_cloud_base"]["min"],
        "temp_c": found["air_temperature"]["value"],
        "dewpoint_c": value("dewpoint_temperature"),
        "pressure_hpa": value("station_pressure"),
        "sea_level_hpa": value("sea_level_pressure"),
        "change_hpa": change,
        "rain_mm": rain and rain["amount"]["value"],
        "rain_hours": rain and rain["time_before_obs"]["value"],
        "weather": found.get("present_weather") and synop_decode.WEATHER[found["present_weather"]["value"]][0],
    }


def test_every_synop_decodes_to_the_values_it_was_made_of():
    rows = sample("synop_decode")
    found = [decoded_synop(row["report"]) for row in rows]
    assert [(row, values) for row, values in zip(rows, found, strict=True) if values.items() - row.items()] == []
    assert {row["weather"] for row in rows} == {None, *(words for words, _ in synop_decode.WEATHER.values())}


def test_quantities_are_those_of_metpy():
    """Beyond half a unit of rounding the formulas differ by what is written beside them: MetPy takes vapour pressure of
    Ambaum (2020) where ours is Bolton's (1980), the others are the same formulas."""
    from metpy import calc
    from metpy.units import units

    celsius, percent = units.degC, units.percent
    judges = {
        "dew_point": (
            0.05,
            0.07,
            lambda a, b: calc.dewpoint_from_relative_humidity(a * celsius, b * percent).to("degC"),
        ),
        "relative_humidity": (
            0.5,
            0.1,
            lambda a, b: calc.relative_humidity_from_dewpoint(a * celsius, b * celsius).to("percent"),
        ),
        "heat_index": (0.5, 1e-6, lambda a, b: calc.heat_index(a * celsius, b * percent).to("degC")),
        "wind_chill": (0.5, 1e-6, lambda a, b: calc.windchill(a * celsius, b * units("km/h")).to("degC")),
        "potential_temperature": (
            0.05,
            2e-3,
            lambda a, b: calc.potential_temperature(b * units.hPa, a * celsius).to("kelvin"),
        ),
        "mixing_ratio": (0.05, 0.06, lambda a, b: calc.saturation_mixing_ratio(b * units.hPa, a * celsius).to("g/kg")),
    }
    for quantity, (rounding, formula, judge) in judges.items():
        rows = [row for row in sample("metpy_quantities") if row["quantity"] == quantity]
        first, second, answer = (np.array([row[name] for row in rows]) for name in ("first", "second", "answer"))
        assert len(rows) > 100
        assert np.abs(np.asarray(judge(first, second).m) - answer).max() <= rounding + formula, quantity


def test_quantities_by_hand():
    """20 °C and 50 %: es = 6.112 exp(17.67 x 20 / 263.5) = 6.112 x 3.8236 = 23.37 hPa; e = 11.68 hPa; ln(e / 6.112) = 0.6480;
    Td = 243.5 x 0.6480 / (17.67 - 0.6480) = 9.27 °C. -10 °C and 30 km/h: 30^0.16 = 1.7232;
    13.12 - 6.215 - 11.37 x 1.7232 - 3.965 x 1.7232 = -19.52 °C."""
    assert metpy_quantities.worked("dew_point", 20, 50) == ([23.37, 11.68], 9.3)
    assert metpy_quantities.worked("wind_chill", -10, 30) == ([1.723], -20)


def test_bulletins_say_what_their_tables_say(tmp_path):
    """The extremes are found again in the text of the prompt, and the sentences are read back."""
    file = TEMPLATES / "bulletin_drafting.sample.jsonl"
    made = load_template(TEMPLATES / "bulletin_drafting.yaml").render_all(read_source(SourceSection(path=str(file))))
    for row in made:
        lines = [line.rsplit(" ", 4) for line in row.prompt[-1]["content"].splitlines()[1:]]
        table = [(place, int(hour), *map(int, values)) for place, hour, *values in lines]
        answer = [line.partition(" ")[2] for line in row.answer.splitlines()]
        for line, column, pick in ((answer[1], 2, max), (answer[2], 2, min), (answer[3], 3, max), (answer[4], 4, max)):
            place, hour, *values = pick(table, key=lambda cell: cell[column])
            if values[1] == 0 and column == 3:
                assert line in ("none.", "无。")
                continue
            numbers = [int(number) for number in re.findall(r"-?\d+", line)]
            assert numbers == [values[column - 2], hour] and place in line, (row.answer, table)
            assert sum(cell[column] == values[column - 2] for cell in table) == 1
        rained = {place for place, _, _, rain, _ in table if rain}
        dry = {place for place, *_ in table} - rained
        assert set(re.split(r", |、", answer[5].rstrip(".。"))) == (
            dry or {"nowhere" if row.record["language"] == "en" else "没有"}
        )
