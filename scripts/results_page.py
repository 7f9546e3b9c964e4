"""docs/results.json to the pages docs/results.md and docs/results.zh-CN.md, whose texts are in results*.md.jinja."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import jinja2

from scripts.results_tasks import ALL, ROOT

HERE = Path(__file__).resolve().parent
STORE = ROOT / "docs/results.json"
PAGES = ("results.md", "results.zh-CN.md")  # in the order of the languages of a Task
CHINESE = {
    "finance": "金融", "mining": "矿业", "pharma": "制药", "meteorology": "气象", "power": "电力", "manufacturing": "制造",
    "security": "安全", "government": "政务", "education": "教育", "medical": "医疗", "remote_sensing": "遥感",
}  # fmt: skip
Run = dict[str, Any]


def write_pages() -> None:
    """Both pages, from what was measured."""
    found = json.loads(STORE.read_text(encoding="utf-8"))
    for at, name in enumerate(PAGES):
        (STORE.parent / name).write_text(page(found, at), encoding="utf-8")


def page(found: dict[str, dict[str, Run]], at: int) -> str:
    """The page's Markdown.

    Args:
        found: of each task by seed, as results.json has it. at: 0 for English, 1 for Chinese.
    """
    tasks = [task for task in ALL if task.stored in found]
    runs = [run for task in tasks for run in found[task.stored].values()]
    texts = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
    texts.filters |= {
        "cells": lambda score, task: cells(list(found[task.stored].values()), score),
        "cost": lambda task: cost(list(found[task.stored].values())),
        "seeds_of": lambda task: len(found[task.stored]),
        "in_chinese": CHINESE.__getitem__,
        "as_settings": lambda settings: "".join(f" `--set {setting}`" for setting in settings),
    }
    return texts.from_string((HERE / f"{PAGES[at]}.jinja").read_text(encoding="utf-8")).render(
        tasks=[task for task in tasks if not task.made_up],
        neighbours=[task for task in tasks if task.made_up],
        at=at,
        unfinished=[task.name for task in ALL if len(found.get(task.stored, ())) < len(task.seeds)],
        seeds=sorted({seed for task in tasks for seed in found[task.stored]}),
        dates=sorted({run["date"] for run in runs}),
        machine=runs[0]["environment"],
    )


def cells(runs: Sequence[Run], score: str) -> str:
    """Base, tuned and difference: the mean, and the hull of the runs' intervals."""
    parts = []
    for who in ("base", "tuned", "difference"):
        values = [run["tuned"][score] - run["base"][score] if who == "difference" else run[who][score] for run in runs]
        ends = [run["intervals"][who][score] for run in runs]
        sign = "+" if who == "difference" else ""
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
        parts.append(f"{mean(values):{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]")
    return " | ".join(parts)


def cost(runs: Sequence[Run]) -> str:
    """What a run of the task took."""
    middle = {key: median(run[key] for run in runs) for key in ("train_rows", "rows", "train_s", "score_s", "peak_gib")}
    return (
        f"{middle['train_rows']:.0f}, {middle['rows']:.0f} | {runs[0]['steps']} x {runs[0]['batch']} | "
        f"{middle['train_s']:.0f} | {middle['score_s']:.0f} | {middle['peak_gib']:.1f}"
    )
