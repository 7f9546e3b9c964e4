"""SYNOP reports (FM-12) of made-up observations, encoded here by the WMO Manual on Codes (WMO-No. 306, volume I.1).

Section 1 only: what a land station reports every three hours. Station numbers are made up.
"""

from __future__ import annotations

import random

ROWS, SEED = 1200, 47
STATIONS = 150
# Code table 1600: lower end in m of the class of the lowest cloud's height, by code; 9 is 2500 m or more, or no cloud.
BASES = (0, 50, 100, 200, 300, 600, 1000, 1500, 2000, 2500)
# Of code table 4677, a few that people report most; and past weather (table 4561) that goes with it.
WEATHER = {10: ("mist", 1), 45: ("fog", 4), 51: ("slight drizzle", 5), 61: ("slight rain", 6), 63: ("moderate rain", 6),
           65: ("heavy rain", 6), 71: ("slight snow", 7), 73: ("moderate snow", 7), 80: ("slight rain shower", 8),
           95: ("thunderstorm", 9)}  # fmt: skip
WET = frozenset(WEATHER) - {10, 45}
PERIODS = {6: 1, 12: 2, 24: 4}  # code table 4019: hours of the precipitation


def make(rows: int, seed: int) -> list[dict]:
    """Observations and their reports; no two reports alike."""
    rng = random.Random(f"synop_decode {seed}")
    stations = [(f"{rng.randint(1, 98):02d}{rng.randint(1, 999):03d}", rng.randint(2, 1400)) for _ in range(STATIONS)]
    made: list[dict] = []
    seen: set[str] = set()
    while len(made) < rows:
        observed = observation(rng, *rng.choice(stations))
        report = encode(observed)
        if report not in seen:
            seen.add(report)
            made.append({"report": report, **observed})
    return made


def observation(rng: random.Random, station: str, height: int) -> dict:
    """What a station saw; None where it does not report it. Pressures by the barometric formula, ICAO's lapse rate."""
    temp = max(-400, min(400, round(rng.gauss(110, 110)))) / 10
    calm = rng.random() < 0.08
    direction = None if calm or rng.random() < 0.05 else 10 * rng.randint(1, 36)
    code = rng.choice(list(WEATHER)) if rng.random() < 0.6 else None
    if code in WET:
        temp = -rng.randint(1, 120) / 10 if code in (71, 73) else max(0.5, abs(temp))
    sea = round(rng.gauss(1013, 11), 1)
    lapse = 0.0065 * height
    falling = rng.random() < 0.45
    change = round(rng.uniform(0.1, 4.5), 1)
    cover = rng.randint(5, 8) if code in WET else rng.randint(0, 8)
    return {
        "station": station,
        "day": rng.randint(1, 31),
        "hour": 3 * rng.randint(0, 7),
        "unit": rng.choice(("m/s", "m/s", "kt")),
        "wind_dir": direction,
        "wind_speed": 0 if calm else rng.randint(1, 24),
        "visibility_m": rng.choice((100, 300, 500, 800)) if code == 45 else visibility(rng),
        "cover": cover,
        "base_m": 2500 if cover == 0 else BASES[rng.randint(1, 9)],
        "temp_c": temp,
        "dewpoint_c": None if rng.random() < 0.05 else round(10 * temp - rng.randint(0, 120)) / 10,
        "pressure_hpa": None if rng.random() < 0.1 else round(sea * (1 - lapse / (temp + lapse + 273.15)) ** 5.257, 1),
        "sea_level_hpa": None if height > 800 else sea,
        "change_hpa": None if rng.random() < 0.15 else -change if falling else change,
        "rain_mm": rain(rng) if code in WET else None,
        "rain_hours": rng.choice(list(PERIODS)) if code in WET else None,
        "weather": WEATHER[code][0] if code else None,
    }


def visibility(rng: random.Random) -> int:
    """Metres that code table 4377 has a number for: steps of 100 m up to 5 km, of 1 km up to 30 km."""
    return 100 * rng.randint(10, 50) if rng.random() < 0.4 else 1000 * rng.randint(6, 30)


def rain(rng: random.Random) -> float:
    """Tenths of a mm below one, whole ones from there (code table 3590)."""
    return rng.randint(1, 9) / 10 if rng.random() < 0.35 else float(rng.randint(1, 60))


def encode(seen: dict) -> str:
    """Section 1: AAXX YYGGi IIiii iihVV Nddff 1sTTT 2sTTT 3PPPP 4PPPP 5appp 6RRRt 7wwWW, groups left out where not seen."""
    metres = seen["visibility_m"]
    far = metres // 100 if metres <= 5000 else metres // 1000 + 50
    direction = 0 if seen["wind_speed"] == 0 else 99 if seen["wind_dir"] is None else seen["wind_dir"] // 10
    groups = [
        f"AAXX {seen['day']:02d}{seen['hour']:02d}{4 if seen['unit'] == 'kt' else 1}",
        seen["station"],
        f"{3 if seen['rain_mm'] is None else 1}{2 if seen['weather'] is None else 1}{BASES.index(seen['base_m'])}{far:02d}",
        f"{seen['cover']}{direction:02d}{seen['wind_speed']:02d}",
        f"1{temperature(seen['temp_c'])}",
    ]
    if seen["dewpoint_c"] is not None:
        groups.append(f"2{temperature(seen['dewpoint_c'])}")
    groups += [
        f"{digit}{tenths(seen[name])}" for digit, name in ((3, "pressure_hpa"), (4, "sea_level_hpa")) if seen[name]
    ]
    if seen["change_hpa"] is not None:
        groups.append(f"5{7 if seen['change_hpa'] < 0 else 2}{round(10 * abs(seen['change_hpa'])):03d}")
    if seen["rain_mm"] is not None:
        amount = 990 + round(10 * seen["rain_mm"]) if seen["rain_mm"] < 1 else round(seen["rain_mm"])
        groups.append(f"6{amount:03d}{PERIODS[seen['rain_hours']]}")
    if seen["weather"] is not None:
        code, past = next((code, past) for code, (words, past) in WEATHER.items() if words == seen["weather"])
        groups.append(f"7{code:02d}{past}{past}")
    return " ".join(groups)


def temperature(value: float) -> str:
    """Sign (1 below zero) and tenths of a degree."""
    return f"{1 if value < 0 else 0}{round(10 * abs(value)):03d}"


def tenths(value: float) -> str:
    """Tenths of hPa without the thousands: 1013.2 as 0132."""
    return f"{round(10 * value) % 10000:04d}"
