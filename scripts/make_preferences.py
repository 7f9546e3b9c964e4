"""Build the samples of the preference templates: facts of made-up cases, half English and half Chinese.

Each row holds the facts that the question gives and, in `fault`, what is wrong with the worse (or the labelled) answer. All
wording is in the data templates. Limits are those of the rules named in each template's description.

    python scripts/make_preferences.py --rows 1200 --seed 17
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent / "data_templates"
MOST_FRUITLESS = 10_000  # draws in a row without a new case
Row = dict[str, Any]

PRODUCTS = {
    "en": ("Harbour short-term bond fund", "Northgate balanced fund", "Elmfield corporate bond note", "Meridian gold tracker",
           "Kestrel technology equity fund", "Saltmarsh income plan", "Orchard money market fund", "Beacon global equity fund"),
    "zh": ("稳盈90天封闭式理财", "丰润一年定开混合", "安泰短债基金", "瑞景科技股票基金", "嘉禾固收增强理财", "恒远黄金ETF联接",
           "广济货币市场基金", "明德可转债基金"),
}  # fmt: skip
AREAS = {
    "en": ("Ashford valley", "the northern coast", "Linden county", "the Harrow hills", "Port Wexley", "the Tarn basin",
           "Millbrook district", "the eastern plain"),
    "zh": ("临江区", "北部沿海", "青石县", "东部山区", "南湖新区", "白河流域", "西岭镇", "滨海新区"),
}  # fmt: skip
# hazard: unit, and for each level its bound and the hours it looks ahead (fog has no blue)
HAZARDS = {
    "rain": ("mm", {"blue": (50, 12), "yellow": (50, 6), "orange": (50, 3), "red": (100, 3)}),
    "snow": ("mm", {"blue": (4, 12), "yellow": (6, 12), "orange": (10, 6), "red": (15, 6)}),
    "wind": ("m/s", {"blue": (10.8, 24), "yellow": (17.2, 12), "orange": (24.5, 6), "red": (32.7, 6)}),
    "fog": ("m", {"yellow": (500, 12), "orange": (200, 6), "red": (50, 2)}),
}
PLACES = {
    "en": ("longwall face 3", "return airway 12", "development heading 7", "belt entry 4", "tailgate of panel 9",
           "bleeder entry 2"),
    "zh": ("3号采煤工作面", "12回风巷", "7号掘进工作面", "4号胶带巷", "9采区上隅角", "2号联络巷"),
}  # fmt: skip
# test: unit, least and most allowed, decimals
TESTS = {"assay": ("%", 95.0, 105.0, 1), "dissolution": ("%", 80.0, 100.0, 0), "water": ("%", 0.0, 3.0, 2),
         "hardness": ("N", 60.0, 120.0, 0), "ph": ("", 5.5, 7.0, 2)}  # fmt: skip


def compliant_wording(rng: random.Random, language: str) -> Row:
    return {
        "product": rng.choice(PRODUCTS[language]),
        "risk": rng.randint(1, 5),
        "past_return_pct": rng.randint(-40, 120) / 10,
        "term_months": rng.choice([1, 3, 6, 12, 24, 36]),
        "question": rng.choice(["return", "principal", "everyone", "deposit"]),
        "fault": rng.choice(["promised_return", "safe_principal", "for_everyone"]),
    }


def warning_bulletin(rng: random.Random, language: str) -> Row:
    hazard = rng.choice(list(HAZARDS))
    unit, levels = HAZARDS[hazard]
    level = rng.choice(list(levels))
    value, hours = levels[level]
    return {
        "area": rng.choice(AREAS[language]),
        "hazard": hazard,
        "level": level,
        "value": value,
        "unit": unit,
        "hours": hours,
        "issued_hour": rng.randint(0, 23),
        "day": rng.randint(1, 28),
        "fault": rng.choice(["relative_time", "wrong_end", "other_level"]),
    }


def gas_report(rng: random.Random, language: str) -> Row:
    return {
        "place": rng.choice(PLACES[language]),
        "shift": rng.choice(["day", "evening", "night"]),
        "methane_pct": rng.choice([rng.randint(5, 95), rng.randint(101, 145), rng.randint(150, 220)]) / 100,
        "oxygen_pct": rng.randint(185, 208) / 10,
        "fault": rng.choice(["no_alarm", "no_reading", "wait"]),
    }


def batch_deviation(rng: random.Random, language: str) -> Row:
    test = rng.choice(list(TESTS))
    unit, low, high, decimals = TESTS[test]
    spread = (high - low) * 0.35
    value = round(rng.uniform(max(0.0, low - spread), high + spread), decimals)
    return {
        "batch": f"{rng.choice('ABCDEF')}{rng.randint(1000, 9999)}",
        "test": test,
        "unit": unit,
        "low": low,
        "high": high,
        "value": value,
        "fault": rng.choice(["none", "none", "none", "wrong_verdict", "no_limits", "retest_only"]),
    }


SETS: dict[str, Callable[[random.Random, str], Row]] = {
    "finance/compliant_wording": compliant_wording,
    "meteorology/warning_bulletin": warning_bulletin,
    "mining/gas_report": gas_report,
    "pharma/batch_deviation": batch_deviation,
}


def rows_of(draw: Callable[[random.Random, str], Row], count: int, seed: int) -> list[Row]:
    """Rows no two of which give the same facts; languages take turns."""
    rng = random.Random(f"{draw.__name__} {seed}")
    seen: set[str] = set()
    rows: list[Row] = []
    fruitless = 0
    while len(rows) < count:
        language = ("en", "zh")[len(rows) % 2]
        row = draw(rng, language)
        facts = json.dumps([language, *(value for key, value in row.items() if key != "fault")], ensure_ascii=False)
        if facts in seen:
            fruitless += 1
            if fruitless == MOST_FRUITLESS:
                raise SystemExit(f"{draw.__name__}: no new case after {len(rows)} rows")
            continue
        seen.add(facts)
        fruitless = 0
        rows.append({"case_id": f"{len(rows) + 1:05d}", "language": language, **row})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=17)
    arguments = parser.parse_args()
    for name, draw in SETS.items():
        file = ROOT / f"{name}.sample.jsonl"
        rows = rows_of(draw, arguments.rows, arguments.seed)
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        print(f"{file}: {len(rows)} rows")


if __name__ == "__main__":
    main()
