"""Build data_templates/meteorology/metar_decode.sample.jsonl from a METAR cache file of the Aviation Weather Center.

The cache (https://aviationweather.gov/data/cache/metars.cache.csv.gz, public domain) holds raw reports beside the
official decode. Every reference is checked against a second, independent decoder (PyPI package `metar`); a row on
which the two contradict each other, or on which only one of them reads a field, is left out; the disagreements are
written to docs/metar_references.md.

    python scripts/make/meteorology/metar_decode.py metars.cache.csv --rows 2600
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import re
import warnings
from collections import Counter
from pathlib import Path

from metar.Metar import Metar

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "data_templates/meteorology/metar_decode.sample.jsonl"
REPORT = ROOT / "docs/metar_references.md"
SKY_COLUMNS = 4  # the cache repeats sky_cover, cloud_base_ft_agl four times
CLEAR_WORDS = {"SKC", "CLR", "NSC", "NCD"}  # the official decode writes CLR for the last two
# What the reports were decoded to must also be there: these are compared one by one.
CHECKED = (
    "station_id", "observation_time", "wind_dir", "wind_speed_kt", "wind_gust_kt", "visibility_statute_mi",
    "wx_string", "sky", "temp_c", "dewpoint_c", "altim_in_hg",
)  # fmt: skip
# The cache gives every visibility in miles and every pressure in inHg, rounded. Reports come in miles or metres, inHg or
# hPa; where both decoders agree on the value, the sample carries it in the unit of the report, exact, and null in the
# other one.
HPA_PER_IN_HG = 33.86389
METRES_PER_MILE = 1609.344
# Largest difference that rounding and unit conversion explain: knots from m/s, inHg from hPa, miles from metres.
TOLERANCE = {
    "wind_speed_kt": 0.51,
    "wind_gust_kt": 0.51,
    "visibility_statute_mi": 0.011,
    "temp_c": 0.051,
    "dewpoint_c": 0.051,
    "altim_in_hg": 0.011,
}


def read_cache(path: Path) -> list[list[tuple[str, str]]]:
    """Rows of the cache as (column, value) pairs; skips the preamble before the header that starts with raw_text."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    start = next((i for i, line in enumerate(lines) if line and line[0] == "raw_text"), None)
    if start is None:
        raise SystemExit(f"{path}: no header row that starts with raw_text")
    header = lines[start]
    return [list(zip(header, line, strict=True)) for line in lines[start + 1 :] if len(line) == len(header)]


def official(pairs: list[tuple[str, str]]) -> dict:
    """One cache row as a tidy record: numbers typed, empty cells None, the repeated sky columns one list.

    The official decode writes direction 0 both for calm and for VRB winds; the raw group keeps them apart.
    An obscured sky (OVX with a vertical visibility) is written as VV and its height in feet.
    """
    cells: dict[str, str] = {}
    for column, value in pairs:
        cells.setdefault(column, value)  # the first of the repeated sky columns; all four are read below
    covers = [value for column, value in pairs if column == "sky_cover"]
    bases = [value for column, value in pairs if column == "cloud_base_ft_agl"]
    raw = " ".join(cells["raw_text"].split())

    def number(column: str) -> float | None:
        return float(cells[column]) if cells[column] else None

    def whole(column: str) -> int | None:
        return int(float(cells[column])) if cells[column] else None

    direction = cells["wind_dir_degrees"] or None
    if direction == "0" and re.search(r"\bVRB\d", raw.split(" RMK")[0]):
        direction = "VRB"
    sky = [f"{cover} {base}".strip() for cover, base in zip(covers, bases, strict=True) if cover]
    if sky == ["OVX 0"] or sky == ["OVX"]:  # sky obscured: the height is in a column of its own
        sky = [f"VV {cells['vert_vis_ft']}".strip()]
    return {
        "raw_text": raw,
        "station_id": cells["station_id"],
        "observation_time": cells["observation_time"],
        "wind_dir": direction,
        "wind_speed_kt": whole("wind_speed_kt"),
        "wind_gust_kt": whole("wind_gust_kt"),
        "visibility_statute_mi": number("visibility_statute_mi"),
        "wx_string": cells["wx_string"] or None,
        "sky": sky,
        "temp_c": number("temp_c"),
        "dewpoint_c": number("dewpoint_c"),
        "altim_in_hg": number("altim_in_hg"),
        "flight_category": cells["flight_category"] or None,
    }


def second_opinion(record: dict) -> dict | None:
    """The same record decoded by the `metar` package, or None where that package can't read the report at all."""
    year, month = int(record["observation_time"][:4]), int(record["observation_time"][5:7])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            report = Metar(record["raw_text"], month=month, year=year, strict=False)
    except Exception:  # the package raises its own and plain ValueErrors for reports it can't read
        return None

    def value(quantity, unit: str) -> float | None:
        return None if quantity is None else quantity.value(unit)

    direction = None
    if report.wind_dir is not None:
        direction = str(int(report.wind_dir.value()))
    elif report.wind_speed is not None:
        direction = "0" if report.wind_speed.value("KT") == 0 else "VRB"
    sky = []
    for cover, height, _cloud in report.sky:
        sky.append(f"{cover} {round(height.value('FT'))}" if height is not None else cover)
    return {
        "station_id": report.station_id,
        "observation_time": report.time.strftime("%Y-%m-%dT%H:%M:%SZ") if report.time else None,
        "wind_dir": direction,
        "wind_speed_kt": value(report.wind_speed, "KT"),
        "wind_gust_kt": value(report.wind_gust, "KT"),
        "visibility_statute_mi": value(report.vis, "SM"),
        "wx_string": " ".join("".join(part or "" for part in group) for group in report.weather) or None,
        "sky": sky,
        "temp_c": value(report.temp, "C"),
        "dewpoint_c": value(report.dewpt, "C"),
        "altim_in_hg": value(report.press, "IN"),
    }


def verdict(field: str, ours: object, theirs: object) -> str:
    """`agree`, `one silent` (only one decoder gives a value) or `contradict`."""
    if ours in (None, []) and theirs in (None, []):
        return "agree"
    if field == "sky" and ours == ["CAVOK"] and theirs == []:  # a word the second decoder keeps with the visibility
        return "agree"
    if ours in (None, []) or theirs in (None, []):
        return "one silent"
    if field in TOLERANCE:
        return "agree" if abs(float(ours) - float(theirs)) <= TOLERANCE[field] else "contradict"  # type: ignore[arg-type]
    if field == "sky" and {*ours, *theirs} <= CLEAR_WORDS:  # type: ignore[misc]
        return "agree"
    return "agree" if ours == theirs else "contradict"


def in_reported_units(record: dict) -> dict:
    """`visibility_statute_mi` or `visibility_m`, `altim_in_hg` or `qnh_hpa`: the unit that the report itself uses."""
    body = record["raw_text"].split(" RMK")[0]
    miles, inches = record["visibility_statute_mi"], record["altim_in_hg"]
    metric = miles is not None and not re.search(r"\dSM\b", body)
    hectopascal = inches is not None and re.search(r"\bQ\d{3,4}\b", body)
    metres = round(miles * METRES_PER_MILE / 50) * 50 if metric else None  # 6.21 mi is 10000 m, 0.06 mi is 100 m
    units = {
        "visibility_statute_mi": None if metric else miles,
        "visibility_m": metres,
        "altim_in_hg": None if hectopascal or inches is None else round(inches, 2),
        "qnh_hpa": round(inches * HPA_PER_IN_HG) if hectopascal else None,
    }
    return {key: units.get(key, value) for key, value in (record | units).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="metars.cache.csv, plain or .gz")
    parser.add_argument("--rows", type=int, default=2600, help="rows to keep in the sample")
    parser.add_argument("--out", type=Path, default=SAMPLE)
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()

    counts: dict[str, Counter] = {field: Counter() for field in CHECKED}
    contradictions: dict[str, list[str]] = {field: [] for field in CHECKED}
    kept, unread, seen = [], 0, set()
    for pairs in read_cache(options.cache):
        record = official(pairs)
        if record["raw_text"] in seen:
            continue
        seen.add(record["raw_text"])
        other = second_opinion(record)
        if other is None:
            unread += 1
            continue
        agreed = True
        for field in CHECKED:
            result = verdict(field, record[field], other[field])
            counts[field][result] += 1
            if result != "agree":
                agreed = False
                if result == "contradict":
                    contradictions[field].append(f"`{record['raw_text']}`: {record[field]} against {other[field]}")
        if agreed:
            kept.append(in_reported_units(record))

    # A sample that does not depend on the order of the file: the first rows by hash of the station.
    kept.sort(key=lambda record: hashlib.sha256(record["station_id"].encode()).hexdigest())
    report = report_text(options, counts, contradictions, len(seen), unread, len(kept))
    kept = kept[: options.rows]
    options.out.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept), encoding="utf-8")
    options.report.write_text(report, encoding="utf-8")
    print(f"{options.out}: {len(kept)} rows of {len({r['station_id'] for r in kept})} stations")
    print(f"{options.report}: {len(seen)} reports compared, {unread} not readable by the second decoder")


def report_text(options, counts: dict, contradictions: dict, total: int, unread: int, kept: int) -> str:
    lines = [
        "# METAR references: the official decode against a second decoder",
        "",
        f"Written by `scripts/make/meteorology/metar_decode.py {options.cache.name} --rows {options.rows}`.",
        f"{total} different reports; {unread} of them the package `metar` can't read at all and are left out.",
        "`one silent`: only one of the two gives a value (a group in a form that the other does not read).",
        f"A row that is not `agree` in every field is left out of the sample: {kept} rows could have gone in.",
        "",
        "| field | agree | one silent | contradict | agree, % of rows where both speak |",
        "|---|---|---|---|---|",
    ]
    for field, count in counts.items():
        both = count["agree"] + count["contradict"]
        share = 100 * count["agree"] / both
        lines.append(f"| {field} | {count['agree']} | {count['one silent']} | {count['contradict']} | {share:.2f} |")
    lines += ["", "Examples, official decode first (at most five a field):", ""]
    for field, examples in contradictions.items():
        lines += [f"- **{field}**: {example}" for example in examples[:5]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
