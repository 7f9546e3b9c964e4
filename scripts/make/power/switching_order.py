"""Switching tasks of one line bay, in Chinese: the steps of the ticket in order, or the refusal.

Order of steps: GB 26860-2011, basic requirements of switching: circuit breaker, isolator of the load side, isolator of
the source side, and the other way round to put into service; no isolator under load, no earthing switch on a live line.
A task is refused where the bay is not in the state told, or where the far end forbids it.
"""

from __future__ import annotations

import random

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
STATES = ("运行", "热备用", "冷备用", "检修")  # in service, hot and cold standby, earthed for work
FAR_ENDS = ("运行", "热备用", "冷备用", "检修")
LINES = ("南湖", "城东", "柳林", "石桥", "河西", "新港", "东山", "云溪", "青峰", "长田", "白塔", "丰泽")
VOLTAGES = {"9": "10kV", "3": "35kV", "1": "110kV"}  # by the first digit of the breaker's number
# Each step down the states, with the devices it works; up is worked out apart, since its checks are others.
DOWN = (
    ("断开{b}开关", "检查{b}开关已断开"),
    ("检查{b}开关已断开", "拉开{b}3线路侧刀闸", "拉开{b}1母线侧刀闸"),
    ("检查{b}1、{b}3刀闸已拉开", "在{b}线路侧验电，确无电压", "合上{b}40接地刀闸"),
)
UP = (
    ("合上{b}开关", "检查{b}开关已合上"),
    ("检查{b}开关已断开", "合上{b}1母线侧刀闸", "合上{b}3线路侧刀闸"),
    ("拉开{b}40接地刀闸", "检查{b}40接地刀闸已拉开"),
)
WORDINGS = (
    "{voltage}{line}{b}线路由{start}转{end}。",
    "请写出{voltage}{line}线{b}由{start}转为{end}的操作步骤。",
    "调度令：{line}{b}由{start}转{end}（{voltage}）。",
)


def steps(breaker: str, start: str, end: str) -> list[str]:
    """The ticket from one state to another. A check that only repeats the one before is left out."""
    here, there = STATES.index(start), STATES.index(end)
    parts = [DOWN[n] for n in range(here, there)] or [UP[n] for n in reversed(range(there, here))]
    told = [step.format(b=breaker) for part in parts for step in part]
    return [step for n, step in enumerate(told) if n == 0 or step != told[n - 1]]


def refusal(breaker: str, actual: str, start: str, end: str, far: str) -> str | None:
    """Why the task may not be done, or None."""
    if actual != start:
        return f"{breaker}现为{actual}，与指令不符"
    if end == "检修" and far in ("运行", "热备用"):
        return f"对侧为{far}，不得合接地刀闸"
    if end in ("运行", "热备用") and far == "检修":
        return "对侧为检修，不得送电"
    return None


def drawn(rng: random.Random, _language: str) -> Row:
    breaker = f"{rng.choice(tuple(VOLTAGES))}{rng.randint(1, 4)}{rng.randint(1, 9)}"
    start, end = rng.sample(STATES, 2)
    actual = rng.choice(STATES) if rng.random() < 0.15 else start
    far = rng.choice(FAR_ENDS)
    if rng.random() < 0.6 and refusal(breaker, actual, start, end, far) is not None:  # else half would be refused
        actual, far = start, "冷备用"
    why = refusal(breaker, actual, start, end, far)
    wording = rng.choice(WORDINGS)
    return {
        "task": wording.format(voltage=VOLTAGES[breaker[0]], line=rng.choice(LINES), b=breaker, start=start, end=end),
        "breaker": breaker,
        "actual": actual,
        "far_end": far,
        "steps": [] if why else steps(breaker, start, end),
        "refusal": why,
    }


def make(rows: int, seed: int) -> list[Row]:
    return distinct(drawn, rows, seed, languages=("zh",))
