"""Land cover of one place in two scenes, as counts of pixels, and what changed; or why the two are not to be compared.

Pixel sizes: Sentinel-2 MSI 10 m (ESA), Landsat 8 OLI 30 m (USGS), GF-1 PMS multispectral 8 m and WFV 16 m (CRESDA). The two
rules, at most 20 % cloud and at most 45 days between the days of the year, are this task's own and stand in its prompt.
"""

from __future__ import annotations

import datetime as dt
import random
from fractions import Fraction

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
SENSORS = {"Sentinel-2 MSI": 10, "Landsat 8 OLI": 30, "GF-1 PMS": 8, "GF-1 WFV": 16}  # metres
CLASSES = ("water", "forest", "cropland", "grassland", "built_up", "bare")
MOST_CLOUD_PCT, MOST_DAYS_APART = 20, 45
FEW = (2, 3)  # classes of a report
PIXELS = 100  # counts are multiples of it, so hectares end after two decimals


def make(rows: int, seed: int) -> list[Row]:
    return distinct(scene_report, rows, seed)


def scene_report(rng: random.Random, language: str) -> Row:
    sensor = rng.choice(list(SENSORS))
    before = dt.date(rng.randint(2016, 2021), 1, 1) + dt.timedelta(days=rng.randrange(365))
    apart = rng.choice([rng.randint(-40, 40)] * 4 + [rng.randint(50, 180)])
    same_day = dt.date(before.year + rng.randint(1, 3), before.month, min(before.day, 28))
    after = same_day + dt.timedelta(days=apart)
    cloud = [rng.choice([rng.randint(0, 20)] * 5 + [rng.randint(21, 80)]) for _ in range(2)]
    reason = (
        "cloud" if max(cloud) > MOST_CLOUD_PCT else "season" if days_apart(before, after) > MOST_DAYS_APART else None
    )
    return {
        "sensor": sensor,
        "pixel_m": SENSORS[sensor],
        "before": before.isoformat(),
        "after": after.isoformat(),
        "cloud_before_pct": cloud[0],
        "cloud_after_pct": cloud[1],
        "classes": [cover(rng, name, SENSORS[sensor]) for name in rng.sample(CLASSES, rng.choice(FEW))],
        "reason": reason,
    }


def days_apart(one: dt.date, other: dt.date) -> int:
    """Between the days of the year, the shorter way round."""
    days = abs(one.timetuple().tm_yday - other.timetuple().tm_yday)
    return min(days, 365 - days)


def cover(rng: random.Random, name: str, pixel_m: int) -> Row:
    """Pixels of a class before and after, and its change; the percentage lies at no rounding tie."""
    while True:
        before = rng.randint(10, 400)
        after = max(1, before + rng.randint(-before // 2, before // 2))
        percent = Fraction(100 * (after - before), before)
        if after != before and (percent * 20).denominator != 1:
            break
    hectares = Fraction((after - before) * PIXELS * pixel_m**2, 10_000)
    return {
        "name": name,
        "before_px": before * PIXELS,
        "after_px": after * PIXELS,
        "change_ha": float(hectares),
        "change_pct": round(float(percent), 1),
    }
