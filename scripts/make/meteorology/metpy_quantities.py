"""Dew point, humidity, heat index, wind chill, potential temperature and mixing ratio by their published formulas.

Vapour pressure: Bolton (1980), Mon. Wea. Rev. 108, equations 10 and 11. Heat index: Rothfusz (1990), NWS technical
attachment SR 90-23, with the adjustment for damp air of the Weather Prediction Center. Wind chill: NWS and Environment Canada
(2001). Steps are rounded; a case whose rounded steps lead to another answer is not used.
"""

from __future__ import annotations

import math
import random

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 53
KAPPA = 0.2857  # gas constant of dry air over its heat capacity at constant pressure
EPSILON = 0.622  # mass of a molecule of water over that of dry air's mean
MOST_FELT = 137  # °F, the end of the chart of the National Weather Service
QUANTITIES = ("dew_point", "relative_humidity", "heat_index", "wind_chill", "potential_temperature", "mixing_ratio")


def make(rows: int, seed: int) -> list[Row]:
    return distinct(metpy_quantities, rows, seed)


def metpy_quantities(rng: random.Random, language: str) -> Row:
    """One sum; `first` and `second` are what is given, `steps` what is written down on the way."""
    while True:
        quantity = rng.choice(QUANTITIES)
        first, second = given(rng, quantity)
        steps, answer = worked(quantity, first, second)
        if answer is not None:
            return {
                "quantity": quantity,
                "first": first,
                "second": second,
                "steps": steps,
                "answer": answer,
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
