"""Dew point, humidity, heat index, wind chill, potential temperature, mixing ratio and CAPE by their published formulas.

Vapour pressure: Bolton (1980), Mon. Wea. Rev. 108, equations 10 and 11. Heat index: Rothfusz (1990), NWS technical
attachment SR 90-23, with the adjustment for damp air of the Weather Prediction Center. Wind chill: NWS and Environment Canada
(2001). Steps are rounded; a case whose rounded steps lead to another answer is not used.

CAPE: Rd times the sum of (virtual temperature of parcel - environment) d ln p from the level of free convection to the
equilibrium level (Hobbs 1977; Glossary of Meteorology, American Meteorological Society). Both are levels of the table, so
nothing is interpolated. The answer is the sum of its rounded layers. No official scale of CAPE was found; the classes are
some that forecasters in the United States use, weak below 1000 J/kg, moderate to 2500, strong to 4000, extreme beyond, as
WDRB gives them (https://www.wdrb.com/weather/wdrb-weather-blog/, 23 June 2023). The University of Kentucky
(http://wwwagwx.ca.uky.edu/cape.html) has 1000 and 2500 too, and 3000 and 5000 above. Nothing is drawn near a bound.
"""

from __future__ import annotations

import math
import random

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 53
KAPPA = 0.2857  # gas constant of dry air over its heat capacity at constant pressure
EPSILON = 0.622  # mass of a molecule of water over that of dry air's mean
MOST_FELT = 137  # °F, the end of the chart of the National Weather Service
QUANTITIES = (
    "dew_point", "relative_humidity", "heat_index", "wind_chill", "potential_temperature", "mixing_ratio", "cape",
)  # fmt: skip
STANDARD = (1000, 925, 850, 700, 500, 400, 300, 250, 200)  # hPa, standard levels of the WMO's reports of soundings
RD, CP, LATENT = 287.05, 1005.7, 2.5e6  # J/(kg K), J/(kg K), J/kg
CLASSES = (("weak", 0), ("moderate", 1000), ("strong", 2500), ("extreme", 4000))  # from this CAPE on, J/kg
NEAREST = 20  # J/kg from a bound to a case


def make(rows: int, seed: int) -> list[Row]:
    return distinct(metpy_quantities, rows, seed)


def metpy_quantities(rng: random.Random, language: str) -> Row:
    """One sum; `first` and `second` are what is given, `steps` what is written down on the way."""
    while True:
        quantity = rng.choice(QUANTITIES)
        if quantity == "cape":
            return sounding(rng)
        first, second = given(rng, quantity)
        steps, answer = worked(quantity, first, second)
        if answer is not None:
            return {
                "quantity": quantity,
                "first": first,
                "second": second,
                "levels": None,
                "steps": steps,
                "layers": None,
                "answer": answer,
                "grade": None,
                "profile": f"{quantity}:{first:g}:{second:g}",
            }


def given(rng: random.Random, quantity: str) -> tuple[float, float]:
    """In °C, %, km/h or hPa, as the quantity wants them."""
    if quantity == "heat_index":
        return float(rng.randint(27, 42)), float(rng.randrange(40, 96))
    if quantity == "wind_chill":
        return float(rng.randint(-30, 8)), float(rng.randrange(8, 81))
    if quantity == "potential_temperature":
        return float(rng.randint(-40, 30)), float(rng.randrange(400, 1000, 5))
    if quantity == "mixing_ratio":
        return float(rng.randint(-12, 26)), float(rng.randrange(800, 1025, 5))
    if quantity == "dew_point":
        return float(rng.randint(-8, 38)), float(rng.randrange(20, 100))
    temp = rng.randint(-8, 38)
    return float(temp), float(temp - rng.randint(1, 18))


def worked(quantity: str, first: float, second: float) -> tuple[list[float], float | None]:
    """Rounded steps and the answer; None where the steps, rounded, lead to another one."""
    if quantity == "dew_point":
        full = vapour_pressure(first)
        steps = [round(full, 2), round(full * second / 100, 2)]
        return agreed(steps, dew_point(full * second / 100), dew_point(steps[1]), 1)
    if quantity == "relative_humidity":
        steps = [round(vapour_pressure(first), 2), round(vapour_pressure(second), 2)]
        return agreed(steps, 100 * vapour_pressure(second) / vapour_pressure(first), 100 * steps[1] / steps[0], 0)
    if quantity == "heat_index":
        fahrenheit = 1.8 * first + 32
        felt = heat_index(fahrenheit, second)
        steps = [round(fahrenheit, 1), round(felt, 1)]
        if felt > MOST_FELT:
            return steps, None
        return agreed(steps, (felt - 32) / 1.8, (steps[1] - 32) / 1.8, 0)
    if quantity == "wind_chill":
        steps = [round(second**0.16, 3)]
        return agreed(steps, wind_chill(first, second**0.16), wind_chill(first, steps[0]), 0)
    if quantity == "potential_temperature":
        steps = [round(first + 273.15, 2), round((1000 / second) ** KAPPA, 4)]
        return agreed(steps, (first + 273.15) * (1000 / second) ** KAPPA, steps[0] * steps[1], 1)
    pressure = vapour_pressure(first)
    steps = [round(pressure, 2)]
    ratio, again = (1000 * EPSILON * e / (second - e) for e in (pressure, steps[0]))
    return agreed(steps, ratio, again, 1)


def agreed(steps: list[float], exact: float, by_steps: float, decimals: int) -> tuple[list[float], float | None]:
    answer = round(exact, decimals) + 0.0  # no -0.0
    return steps, answer if answer == round(by_steps, decimals) else None


def vapour_pressure(celsius: float) -> float:
    """Of saturation over water, in hPa: Bolton, equation 10."""
    return 6.112 * math.exp(17.67 * celsius / (celsius + 243.5))


def dew_point(pressure: float) -> float:
    """In °C, of a vapour pressure in hPa: Bolton, equation 11."""
    logarithm = math.log(pressure / 6.112)
    return 243.5 * logarithm / (17.67 - logarithm)


def heat_index(t: float, rh: float) -> float:
    """In °F, of °F and %; the regression holds from 80 °F and 40 % on, and the cases stay there."""
    index = (
        -42.379 + 2.04901523 * t + 10.14333127 * rh - 0.22475541 * t * rh - 6.83783e-3 * t * t
        - 5.481717e-2 * rh * rh + 1.22874e-3 * t * t * rh + 8.5282e-4 * t * rh * rh - 1.99e-6 * t * t * rh * rh
    )  # fmt: skip
    if rh > 85 and 80 <= t <= 87:
        index += (rh - 85) / 10 * (87 - t) / 5
    return index


def wind_chill(celsius: float, power: float) -> float:
    """In °C; `power` is the wind at 10 m in km/h to the power of 0.16."""
    return 13.12 + 0.6215 * celsius - 11.37 * power + 0.3965 * celsius * power


def sounding(rng: random.Random) -> Row:
    """A saturated parcel lifted from the lowest level, over or under an environment, of a class drawn first."""
    wanted = rng.choice([name for name, _ in CLASSES])
    while True:
        bottom = rng.randrange(3)
        pressures = STANDARD[bottom : bottom + rng.randint(6, 8)]
        parcel = lifted(rng.randint(14, 25) - 3 * bottom, pressures)
        warmer = differences(rng, pressures)
        environment = [of_parcel - by for of_parcel, by in zip(parcel, warmer, strict=True)]
        layers = positive_layers(pressures, warmer)
        cape = sum(layer[2] for layer in layers)
        if grade(cape) == wanted and not too_steep(pressures, environment):
            levels = [list(level) for level in zip(pressures, parcel, environment, strict=True)]
            return {
                "quantity": "cape",
                "first": None,
                "second": None,
                "levels": levels,
                "steps": [float(by) for by in warmer],
                "layers": layers,
                "answer": float(cape),
                "grade": wanted,
                "profile": "cape:" + " ".join(f"{p}:{t}:{e}" for p, t, e in levels),
            }


def lifted(celsius: int, pressures: tuple[int, ...]) -> list[int]:
    """Virtual temperature in whole °C of a parcel that rises saturated, without its rain, from the first level in hPa.

    Pseudoadiabat of Bakhshaii and Stull (2013), J. Appl. Meteor. Climatol. 52, by midpoints, in steps of 4 % of the pressure.
    """
    kelvin, at, virtual = celsius + 273.15, float(pressures[0]), []
    for pressure in pressures:
        while at > pressure:
            higher = max(at * 0.96, pressure)
            half = kelvin - moist(kelvin, at) * math.log(at / higher) / 2
            kelvin -= moist(half, math.sqrt(at * higher)) * math.log(at / higher)
            at = higher
        ratio = saturated(kelvin, at)
        virtual.append(round(kelvin * (1 + ratio / EPSILON) / (1 + ratio) - 273.15))
    return virtual


def moist(kelvin: float, pressure: float) -> float:
    """dT / d ln p of a saturated parcel, in K."""
    ratio = saturated(kelvin, pressure)
    return (RD * kelvin + LATENT * ratio) / (CP + LATENT**2 * ratio * EPSILON / (RD * kelvin**2))


def saturated(kelvin: float, pressure: float) -> float:
    """Mixing ratio of saturation at a pressure in hPa, in kg/kg."""
    full = vapour_pressure(kelvin - 273.15)
    return EPSILON * full / (pressure - full)


def differences(rng: random.Random, pressures: tuple[int, ...]) -> list[int]:
    """By how many K the parcel is warmer: nothing at the first level, the level of free convection and that of
    equilibrium; a bulge between these two; colder outside, where there is an outside."""
    free, equilibrium = rng.choice((1, 2)), len(pressures) - rng.choice((1, 2))
    depth = math.log(pressures[free] / pressures[equilibrium])
    peak = rng.randint(1, 20)
    warmer = [0] * len(pressures)
    for at in range(free + 1, equilibrium):
        share = math.log(pressures[free] / pressures[at]) / depth
        warmer[at] = max(1, round(peak * math.sin(math.pi * share)) + rng.choice((-1, 0, 0, 1)))
    for at in (*range(1, free), *range(equilibrium + 1, len(pressures))):
        warmer[at] = -rng.randint(1, 4)
    return warmer


def positive_layers(pressures: tuple[int, ...], warmer: list[int]) -> list[list[float]]:
    """Mean difference in K, Rd ln(p1 / p2) in J/(kg K) and their product in whole J/kg, of layers with a warmer parcel."""
    layers = []
    for at in range(len(pressures) - 1):
        mean = (warmer[at] + warmer[at + 1]) / 2
        factor = round(RD * math.log(pressures[at] / pressures[at + 1]), 1)
        if mean > 0:
            layers.append([mean, factor, math.floor(mean * factor + 0.5 + 1e-9)])  # halves go up
    return layers


def grade(cape: float) -> str | None:
    """The class; None too near to a bound for rounded steps to decide."""
    if any(abs(cape - bound) < NEAREST for _, bound in CLASSES[1:]):
        return None
    return [name for name, bound in CLASSES if cape >= bound][-1]


def too_steep(pressures: tuple[int, ...], celsius: list[int]) -> bool:
    """Whether a layer cools faster than a dry adiabat, by more than the rounding to whole degrees."""
    return any(
        upper + 273.15 < (lower + 273.15) * (above / below) ** KAPPA - 1
        for below, above, lower, upper in zip(pressures, pressures[1:], celsius, celsius[1:], strict=False)
    )
