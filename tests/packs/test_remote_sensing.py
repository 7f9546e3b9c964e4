"""The remote sensing pack: areas through pint, indices and classes through numpy, days through the solar year."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from functools import partial

import numpy as np
import pint
import pytest

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.evaluate.metrics import score
from finetune.recipe_data import SourceSection
from tests.conftest import ROOT
from tests.packs.reading import shipped

rows_of = partial(shipped, "remote_sensing")

TEMPLATES = ROOT / "data_templates/remote_sensing"
# by wavelength in µm, from the sensors' own tables: centre of each band that the task names
CENTRES = {
    "Sentinel-2 MSI": {"B3": 0.560, "B4": 0.665, "B8": 0.833, "B12": 2.202},
    "Landsat 8 OLI": {"B3": 0.561, "B4": 0.655, "B5": 0.865, "B7": 2.201},
    "Landsat 7 ETM+": {"B2": 0.560, "B3": 0.660, "B4": 0.835, "B7": 2.220},
    "MODIS": {"B1": 0.645, "B2": 0.859, "B4": 0.555, "B7": 2.130},
    "GF-1 WFV": {"B2": 0.555, "B3": 0.660, "B4": 0.830},
}
RANGES = {"green": (0.50, 0.60), "red": (0.62, 0.69), "nir": (0.75, 0.95), "swir": (2.05, 2.35)}  # µm
WANTED = {"ndvi": ("nir", "red"), "ndwi": ("green", "nir"), "dnbr": ("nir", "swir")}


def band(sensor: str, colour: str) -> str:
    least, greatest = RANGES[colour]
    found = [name for name, centre in CENTRES[sensor].items() if least <= centre <= greatest]
    assert len(found) == 1, (sensor, colour)
    return found[0]


def test_every_change_of_area_is_the_pixels_times_their_size():
    units = pint.UnitRegistry()
    for row in rows_of("scene_report"):
        pixel = units.Quantity(row["pixel_m"], "m") ** 2
        for cover in row["classes"]:
            before, after = (cover[f"{when}_px"] * pixel.to("hectare").magnitude for when in ("before", "after"))
            assert cover["change_ha"] == pytest.approx(after - before, abs=1e-9), row
            assert abs(cover["change_pct"] - 100 * (after / before - 1)) <= 0.05 + 1e-9, row


def test_scenes_are_compared_by_the_two_rules_of_the_prompt():
    """Days apart within the year, by moving the later scene into the years around the earlier one."""
    seen = Counter()
    for row in rows_of("scene_report"):
        before, after = (dt.date.fromisoformat(row[when]) for when in ("before", "after"))
        moved = [
            dt.date(before.year + shift, 1, 1) + dt.timedelta(after.timetuple().tm_yday - 1) for shift in (-1, 0, 1)
        ]
        near = min(abs((one - before).days) for one in moved)
        cloudy = row["cloud_before_pct"] > 20 or row["cloud_after_pct"] > 20
        if near not in (45, 46):  # leap years move a day by one
            assert row["reason"] == ("cloud" if cloudy else "season" if near > 45 else None), row
        seen[row["reason"]] += 1
        assert before < after
    assert seen == {None: 671, "cloud": 364, "season": 165}


def test_every_index_is_numpys_of_the_bands_at_its_wavelengths():
    """The bands are found by wavelength, not by number; classes by searching Key and Benson's limits."""
    limits = np.array([-0.25, -0.10, 0.10, 0.27, 0.44, 0.66])
    names = ["high regrowth", "low regrowth", "unburned", "low", "moderate-low", "moderate-high", "high"]
    for row in rows_of("band_index"):
        pair = [band(row["sensor"], colour) for colour in WANTED[row["index"]]]
        assert row["taken"] == pair and set(row["bands"]) == set(CENTRES[row["sensor"]]), row
        reflectances = np.array(row["reflectances"])  # (scenes, bands)
        first, second = (reflectances[:, row["bands"].index(name)] for name in pair)
        values = (first - second) / (first + second)
        result = values[0] - values[1] if row["index"] == "dnbr" else values[0]
        assert np.abs(values - np.array(row["values"])).max() <= 0.005 + 1e-9, row
        assert abs(result - row["result"]) <= 0.005 + 1e-9, row
        wanted = names[int(np.searchsorted(limits, result + 1e-9, side="right"))] if row["index"] == "dnbr" else None
        assert row["severity"] == wanted, row


def test_values_by_hand():
    """NDVI of 0.42 and 0.06: 0.36 / 0.48 = 0.75. 1,200 pixels of 10 m are 12 ha; of 30 m, 108 ha. 0.55 - 0.10 = 0.45."""
    from scripts.make.remote_sensing.band_index import Fraction, normalised_difference, severity

    scene = {"nir": Fraction(42, 100), "red": Fraction(6, 100)}
    assert normalised_difference(scene, ("nir", "red")) == Fraction(3, 4)
    assert severity(Fraction(45, 100)) == "moderate-high" and severity(Fraction(-1, 10)) == "unburned"
    assert severity(Fraction(99, 1000)) == "unburned" and severity(Fraction(1, 10)) == "low"
    units = pint.UnitRegistry()
    assert (1200 * units.Quantity(10, "m") ** 2).to("hectare").magnitude == pytest.approx(12)
    assert (1200 * units.Quantity(30, "m") ** 2).to("hectare").magnitude == pytest.approx(108)


def test_perfect_answers_score_one():
    for task in ("scene_report", "band_index"):
        template = load_template(TEMPLATES / f"{task}.yaml")
        samples = template.render_all(read_source(SourceSection(path=str(TEMPLATES / f"{task}.sample.jsonl"))))
        answers = [sample.answer for sample in samples[::3]]
        assert set(score(answers, answers, template.metric).values()) == {1}
