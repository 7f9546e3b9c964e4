"""The tasks of docs/results.md: which recipe, on which data, which score, and what others published beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared/data"
SEEDS = (17, 18, 19)


@dataclass(frozen=True)
class Task:
    """A row of the table.

    Attributes:
        recipe: below recipes/. settings: of `--set`, what makes it the run on real data.
        data: what must lie below DATA; empty where the shipped sample is real.
        score: the one that counts. beside: others shown.
        what, source, published, note: English and Chinese.
    """

    name: str
    industry: str
    recipe: str
    score: str
    what: tuple[str, str]
    source: tuple[str, str]
    published: tuple[str, str] = ("", "")
    note: tuple[str, str] = ("", "")
    beside: tuple[str, ...] = ()
    data: str = ""
    settings: tuple[str, ...] = ()


TASKS = (
    Task(
        name="metar_decode",
        industry="meteorology",
        recipe="meteorology/metar_decode.yaml",
        score="field_match",
        beside=("all_fields",),
        what=("METAR reports to 14 fields", "METAR 报文解码为 14 个字段"),
        source=(
            "2,600 reports of the Aviation Weather Center (public domain), held out by station",
            "航空气象中心 2,600 份报文（公有领域），按站点留出",
        ),
        published=(
            "package metar 2.0.2: 0.986 to 1.000 a field (docs/metar_references.md)",
            "软件包 metar 2.0.2：每字段 0.986 至 1.000（docs/metar_references.md）",
        ),
    ),
)
