"""Flight categories of real METAR reports, from a cache file of the Aviation Weather Center (public domain).

    python -m scripts.make meteorology/flight_category --from metars.cache.csv --output rows.jsonl
    python -m scripts.make.meteorology.flight_category metars.cache.csv   # the shipped sample, balanced

The category is the official column. A report stays out where the sky or the visibility is read otherwise by a second
decoder (PyPI package `metar`), and where the sky is obscured to an unknown height (VV///). In one hour of the world 83 % of
reports are VFR, so the sample takes every LIFR and IFR report and at most MOST of the other two, picked by a hash.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

from scripts.make.__main__ import sample_of, text_of
from scripts.make.meteorology.metar_decode import (
    in_reported_units,
    official,
    read_cache,
    second_opinion,
    verdict,
)

MOST = 380  # rows of one category in the sample
CEILING_COVERS = ("BKN", "OVC", "VV")  # a layer that covers more than half of the sky, or the height seen upwards


def read(path: Path) -> Iterator[dict]:
    """Every report of a cache file that has a category, a visibility and two decoders of one opinion on the sky."""
    seen = set()
    for pairs in read_cache(path):
        record = official(pairs)
        if record["raw_text"] in seen:
            continue
        seen.add(record["raw_text"])
        if record["flight_category"] is None or record["visibility_statute_mi"] is None:
            continue
        other = second_opinion(record)
        if "VV" in record["sky"]:  # a sky obscured to a height that is not told
            continue
        if other and all(verdict(f, record[f], other[f]) == "agree" for f in ("sky", "visibility_statute_mi")):
            yield facts(record)


def facts(record: dict) -> dict:
    """The columns of the data template; visibility in the unit of the report and in miles, as the rule is in miles."""
    return {
        "raw_text": record["raw_text"],
        "station_id": record["station_id"],
        "observation_time": record["observation_time"],
        "ceiling_ft": ceiling(record["sky"]),
        "visibility_statute_mi": record["visibility_statute_mi"],
        "visibility_m": in_reported_units(record)["visibility_m"],
        "flight_category": record["flight_category"],
    }


def ceiling(sky: list[str]) -> int | None:
    """Height in ft of the lowest layer that makes a ceiling, as `BKN 800`; None without one."""
    layers = [layer.split() for layer in sky]
    return min((int(layer[1]) for layer in layers if layer[0] in CEILING_COVERS and len(layer) == 2), default=None)


def balanced(rows: list[dict]) -> list[dict]:
    """At most MOST rows of each category, taken by a hash of the report, in the order of a hash of the station."""
    rows = sorted(rows, key=lambda row: digest(row["raw_text"]))
    taken: dict[str, int] = {}
    kept = []
    for row in rows:
        category = row["flight_category"]
        taken[category] = taken.get(category, 0) + 1
        if taken[category] <= MOST:
            kept.append(row)
    return sorted(kept, key=lambda row: digest(row["station_id"]))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="The shipped sample of meteorology/flight_category.")
    parser.add_argument("cache", type=Path, help="metars.cache.csv, plain or .gz")
    rows = balanced(list(read(parser.parse_args().cache)))
    sample_of("meteorology/flight_category").write_text(text_of(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
