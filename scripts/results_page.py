"""docs/results.json to the pages docs/results.md and docs/results.zh-CN.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from scripts.results_tasks import ROOT, TASKS, Task

STORE = ROOT / "docs/results.json"
Run = dict[str, Any]
WORDS = {
    "en": {
        "title": "# Results: base against tuned on held-out real data",
        "other": "[中文](results.zh-CN.md)",
        "made": (
            "Made by `python scripts/results.py` from [results.json](results.json), which has every score of every run. The base is "
            "SmolLM2-135M-Instruct (dequantised from Q4_1), trained on a CPU with LoRA r 16 on all linear layers; each task is a shipped "
            "recipe, on real data."
        ),
        "seeds": (
            "Three seeds ({seeds}): of LoRA's first weights, of the order of rows and, where a task has no held-out file of its own, of the "
            "held-out rows. A cell gives the mean, then the lowest lower and the highest upper end of the three 95 % intervals (bootstrap over "
            "held-out rows, [data_template.md](data_template.md#intervals)). The difference is clear where its interval does not hold 0."
        ),
        "published": "Published figures are of other, mostly larger models and often on other splits: they say what the task asks, not who wins.",
        "table": "| task | score | base | tuned | tuned - base | published |",
        "beside": "Further scores",
        "beside_table": "| task | score | base | tuned | tuned - base |",
        "cost": "Cost, medians of the seeds",
        "cost_table": "| task | trained on, held out | steps x batch | training, s | scoring, s | peak memory, GiB |",
        "machine": (
            "Machine: {cpu}, {threads} threads, a shared machine on which other work ran at low priority: times are what a run takes "
            "there, not what the machine can do. {dates}"
        ),
        "data": "The data",
        "none": "not measured",
    },
    "zh": {
        "title": "# 结果：留出真实数据上的基座与微调模型",
        "other": "[English](results.md)",
        "made": (
            "由 `python scripts/results.py` 根据 [results.json](results.json) 生成，其中有每次运行的全部得分。基座为 "
            "SmolLM2-135M-Instruct（由 Q4_1 反量化），在 CPU 上训练，LoRA r 16 作用于全部线性层；每项任务都是随项目发布的配方，用真实数据。"
        ),
        "seeds": (
            "三个随机种子（{seeds}）：决定 LoRA 初始权重、样本顺序，任务没有独立留出文件时还决定留出哪些行。单元格给出均值，以及三个 95% 区间"
            "（对留出行做自助法，见 [data_template.zh-CN.md](data_template.zh-CN.md)）中最低的下端与最高的上端。差值区间不含 0 时差异明确。"
        ),
        "published": "公开数字来自其他（大多更大的）模型，数据划分也常不同：它们说明任务的难度，不是排名。",
        "table": "| 任务 | 得分 | 基座 | 微调后 | 微调 - 基座 | 公开参考 |",
        "beside": "其他得分",
        "beside_table": "| 任务 | 得分 | 基座 | 微调后 | 微调 - 基座 |",
        "cost": "开销（各种子的中位数）",
        "cost_table": "| 任务 | 训练行数，留出行数 | 步数 × 批量 | 训练，秒 | 评分，秒 | 峰值内存，GiB |",
        "machine": "机器：{cpu}，{threads} 线程，共享机器，同时有低优先级的其他工作：时间是在其上一次运行所需，不代表机器的能力。{dates}",
        "data": "数据",
        "none": "未测量",
    },
}  # fmt: skip


def write_pages() -> None:
    """Both pages, from what was measured."""
    found = json.loads(STORE.read_text(encoding="utf-8"))
    for language, name in (("en", "results.md"), ("zh", "results.zh-CN.md")):
        (STORE.parent / name).write_text(page(found, language), encoding="utf-8")


def page(found: dict[str, dict[str, Run]], language: str) -> str:
    """The page's Markdown.

    Args:
        found: of each task by seed, as results.json has it.
    """
    words, at = WORDS[language], ("en", "zh").index(language)
    measured = [
        (task, [found[task.name][seed] for seed in sorted(found[task.name])]) for task in TASKS if task.name in found
    ]
    seeds = ", ".join(sorted({seed for runs in found.values() for seed in runs}))
    runs = [run for _, its in measured for run in its]
    dates = ", ".join(sorted({run["date"] for run in runs}))
    lines = [
        words["title"],
        "",
        words["other"],
        "",
        words["made"],
        "",
        words["seeds"].format(seeds=seeds),
        "",
        words["published"],
        "",
    ]
    lines += [words["table"], "|---|---|---|---|---|---|"]
    for task, its in measured:
        cells = _scores(its, task.score)
        lines.append(f"| {_named(task, at)} | {task.score} | {cells} | {task.published[at]} |")
    lines += ["", f"## {words['beside']}", "", words["beside_table"], "|---|---|---|---|---|"]
    lines += [
        f"| {_named(task, at)} | {score} | {_scores(its, score)} |" for task, its in measured for score in task.beside
    ]
    lines += ["", f"## {words['cost']}", "", words["cost_table"], "|---|---|---|---|---|---|"]
    lines += [f"| {_named(task, at)} | {_cost(its)} |" for task, its in measured]
    machine = runs[0]["environment"]
    lines += ["", words["machine"].format(cpu=machine["cpu"], threads=machine["threads"], dates=dates), ""]
    lines += [f"## {words['data']}", ""]
    lines += [f"- **{task.name}** (`recipes/{task.recipe}`): {task.source[at]}." for task, _ in measured]
    lines += _notes(measured, at)
    return "\n".join(lines) + "\n"


def _named(task: Task, at: int) -> str:
    return f"{task.industry}: {task.what[at]}"


def _notes(measured: Sequence[tuple[Task, Sequence[Run]]], at: int) -> list[str]:
    return ["", *(f"- {task.name}: {task.note[at]}" for task, _ in measured if task.note[at])]


def _scores(runs: Sequence[Run], score: str) -> str:
    """Base, tuned and difference, each with the hull of its intervals."""
    cells = []
    for who in ("base", "tuned", "difference"):
        values = [run["tuned"][score] - run["base"][score] if who == "difference" else run[who][score] for run in runs]
        ends = [run["intervals"][who][score] for run in runs]
        sign = "+" if who == "difference" else ""
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
        cells.append(f"{mean(values):{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]")
    return " | ".join(cells)


def _cost(runs: Sequence[Run]) -> str:
    first = runs[0]
    middle = {key: median(run[key] for run in runs) for key in ("train_rows", "rows", "train_s", "score_s", "peak_gib")}
    return (
        f"{middle['train_rows']:.0f}, {middle['rows']:.0f} | {first['steps']} x {first['batch']} | {middle['train_s']:.0f} | "
        f"{middle['score_s']:.0f} | {middle['peak_gib']:.1f}"
    )
