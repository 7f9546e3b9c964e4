"""NDVI, NDWI and dNBR from the reflectances of a sensor's bands.

NDVI, Rouse et al. (1974, NASA SP-351); NDWI of open water, McFeeters (Int J Remote Sens 1996;17:1425), water above 0; NBR and
the classes of burn severity by dNBR, Key and Benson (2006, RMRS-GTR-164-CD, LA-8). Numbers of bands: ESA, USGS, NASA, CRESDA.
Reflectances are made up.
"""

from __future__ import annotations

import random
from fractions import Fraction

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
BANDS = {  # green, red, near infrared, short-wave infrared near 2.2 µm
    "Sentinel-2 MSI": {"green": "B3", "red": "B4", "nir": "B8", "swir": "B12"},
    "Landsat 8 OLI": {"green": "B3", "red": "B4", "nir": "B5", "swir": "B7"},
    "Landsat 7 ETM+": {"green": "B2", "red": "B3", "nir": "B4", "swir": "B7"},
    "MODIS": {"green": "B4", "red": "B1", "nir": "B2", "swir": "B7"},
    "GF-1 WFV": {"green": "B2", "red": "B3", "nir": "B4"},
}
PAIRS = {"ndvi": ("nir", "red"), "ndwi": ("green", "nir"), "dnbr": ("nir", "swir")}
SEVERITY = (  # from this dNBR on, in thousandths
    (660, "high"), (440, "moderate-high"), (270, "moderate-low"), (100, "low"), (-100, "unburned"), (-250, "low regrowth"),
    (-2000, "high regrowth"),
)  # fmt: skip
GROUND = {  # least and greatest reflectance in percent: green and red, near infrared, short-wave infrared
    "plants": ((2, 12), (25, 50), (5, 15)),
    "soil": ((8, 25), (15, 35), (12, 28)),
    "burnt": ((3, 9), (8, 20), (15, 30)),
    "water": ((4, 12), (1, 6), (1, 4)),
}
Spectrum = dict[str, Fraction]


def make(rows: int, seed: int) -> list[Row]:
    return distinct(band_index, rows, seed)


def band_index(rng: random.Random, language: str) -> Row:
    index = rng.choice(list(PAIRS))
    sensor = rng.choice([name for name, bands in BANDS.items() if set(PAIRS[index]) <= set(bands)])
    bands = BANDS[sensor]
    while True:
        scenes = [spectrum(rng, bands, rng.choice(["plants", "soil"] if index == "dnbr" else list(GROUND)))]
        if index == "dnbr":
            scenes.append(spectrum(rng, bands, rng.choice(["plants", "soil", "burnt"])))
        values = [normalised_difference(scene, PAIRS[index]) for scene in scenes]
        result = values[0] - values[-1] if index == "dnbr" else values[0]
        rounded = [round(float(value), 2) for value in values]
        if (
            far_from_tie([*values, result])
            and (index != "dnbr" or round(rounded[0] - rounded[1], 2) == round(float(result), 2))
            and severity(result) == severity(Fraction(str(round(float(result), 2))))
            and (index != "ndwi" or abs(result) >= Fraction(1, 100))
        ):
            break
    return {
        "index": index,
        "sensor": sensor,
        "bands": list(bands.values()),
        "reflectances": [[float(value) for value in scene.values()] for scene in scenes],
        "taken": [bands[name] for name in PAIRS[index]],
        "values": rounded,
        "result": round(float(result), 2),
        "severity": severity(result) if index == "dnbr" else None,
    }


def spectrum(rng: random.Random, bands: dict[str, str], ground: str) -> Spectrum:
    """Reflectances in hundredths."""
    visible, infrared, short_wave = GROUND[ground]
    spans = {"green": visible, "red": visible, "nir": infrared, "swir": short_wave}
    return {name: Fraction(rng.randint(*spans[name]), 100) for name in bands}


def normalised_difference(scene: Spectrum, pair: tuple[str, str]) -> Fraction:
    first, second = (scene[name] for name in pair)
    return (first - second) / (first + second)


def far_from_tie(values: list[Fraction]) -> bool:
    return all(abs((value * 100) % 1 - Fraction(1, 2)) > Fraction(1, 10**6) for value in values)


def severity(dnbr: Fraction) -> str:
    return next(name for least, name in SEVERITY if dnbr * 1000 >= least)
