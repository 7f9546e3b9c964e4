"""Meteorology's made-up reports, sums and bulletins against judges that did not make the answers."""

from __future__ import annotations

import re

import numpy as np
from pymetdecoder.synop import SYNOP

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.evaluate.metrics import aggregate, score_rows
from finetune.recipe_data import SourceSection
from scripts.make.meteorology import metpy_quantities, synop_decode
from tests.packs.test_meteorology import TEMPLATES, perfect, sample


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
    assert perfect("synop_decode", TEMPLATES / "synop_decode.sample.jsonl") == (len(rows), {1.0})
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


def test_bulletins_say_what_their_tables_say():
    """The extremes are found again in the text of the prompt, and the sentences are read back."""
    file = TEMPLATES / "bulletin_drafting.sample.jsonl"
    template = load_template(TEMPLATES / "bulletin_drafting.yaml")
    made = template.render_all(read_source(SourceSection(path=str(file))))
    answers = [row.answer for row in made]
    assert set(aggregate(score_rows(answers, answers, [template.metric] * len(made))).values()) == {1.0}
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
