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


def soundings_for_metpy(rows: list[dict]) -> list[tuple]:
    """Pressure, temperature, dew point and parcel of each row, whose virtual temperatures by MetPy are those of its table.

    MetPy takes no virtual temperatures. So the parcel is one that is saturated, as the table's is, the air beside it has its
    dew point 8 K below (at the first level none, where parcel and air are the same), and T = Tv * T / Tv(T) is repeated.
    """
    from metpy import calc
    from metpy.units import units

    hpa, parcel, air = np.concatenate([row["levels"] for row in rows]).T + np.array([[0], [273.15], [273.15]])
    depression = np.concatenate([[0.0, *[8.0] * (len(row["levels"]) - 1)] for row in rows])
    pressure, kelvin = hpa * units.hPa, units.kelvin
    rising, beside = parcel, air
    for _ in range(15):
        wet = calc.saturation_mixing_ratio(pressure, rising * kelvin)
        rising = parcel * rising / calc.virtual_temperature(rising * kelvin, wet).m
        dew_point = (beside - depression) * kelvin
        beside = (
            air * beside / calc.virtual_temperature_from_dewpoint(pressure, beside * kelvin, dew_point).m_as("kelvin")
        )
    columns = (pressure, beside * kelvin, (beside - depression) * kelvin, rising * kelvin)
    ends = np.cumsum([len(row["levels"]) for row in rows])[:-1]
    return [
        tuple(part * column.u for part, column in zip(parts, columns, strict=True))
        for parts in zip(*(np.split(column.m, ends) for column in columns), strict=True)
    ]


def test_cape_and_its_class_are_those_of_metpy():
    """MetPy sums the same layers unrounded. Ours may be off, in each layer, by 0.5 J/kg for its whole J/kg and by 0.05
    J/(kg K) of the factor times the mean difference. No case lies that near to a bound, so the classes are all the same."""
    from metpy import calc
    from metpy.units import units

    rows = [row for row in sample("metpy_quantities") if row["quantity"] == "cape"]
    assert {row["grade"] for row in rows} == {"weak", "moderate", "strong", "extreme"} and len(rows) > 150
    for row, sounding in zip(rows, soundings_for_metpy(rows), strict=True):
        cape = calc.cape_cin(*sounding)[0].m_as("J/kg")
        assert abs(cape - row["answer"]) <= sum(0.5 + 0.05 * mean for mean, _, _ in row["layers"]), row
        assert row["grade"] == ("weak", "moderate", "strong", "extreme")[np.searchsorted((1000, 2500, 4000), cape)], row
        assert sum(layer[2] for layer in row["layers"]) == row["answer"]
        assert [parcel - air for _, parcel, air in row["levels"]] == row["steps"]
    for pressure, _, _, parcel in soundings_for_metpy(rows[::20]):
        # whole degrees at the first level (0.5 K, up to 1 K aloft) and at each other one
        assert np.abs((calc.moist_lapse(pressure, parcel[0]) - parcel).m_as(units.delta_degC)).max() <= 1.5


def test_cape_by_hand():
    """0, 4, 0 K at 700, 500 and 400 hPa: 287.05 ln(7/5) = 96.6 and 287.05 ln(5/4) = 64.1 J/(kg K); 2 x 96.6 = 193.2,
    2 x 64.1 = 128.2; 193 + 128 = 321 J/kg. Halves go up: 2.5 x 96.6 = 241.5."""
    layers = metpy_quantities.positive_layers((850, 700, 500, 400, 300), [-1, 0, 4, 0, -2])
    assert layers == [[2, 96.6, 193], [2, 64.1, 128]]
    assert metpy_quantities.positive_layers((700, 500), [0, 5]) == [[2.5, 96.6, 242]]
    grades = [metpy_quantities.grade(cape) for cape in (321, 981, 1020, 2480, 3999, 4020)]
    assert grades == ["weak", None, "moderate", "moderate", None, "extreme"]


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
