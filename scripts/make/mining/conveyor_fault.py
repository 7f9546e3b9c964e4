"""Made-up fault reports of belt conveyors, in Chinese and English, and what a maintenance system records of them."""

from __future__ import annotations

import random

from scripts.make.cases import distinct

ROWS, SEED = 1200, 43
# fault: (component, ways to say it in English, in Chinese)
FAULTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "misalignment": (
        "belt",
        ("belt running off to the left", "belt tracking off centre, rubbing the frame", "belt edge against the structure"),
        ("胶带向左跑偏", "胶带跑偏蹭机架", "带边磨到机架"),
    ),
    "slip": (
        "drive drum",
        ("belt slipping on the drive drum", "drive drum turns faster than the belt", "slip switch tripped at the drive"),
        ("胶带在驱动滚筒上打滑", "驱动滚筒转得比胶带快", "驱动处打滑保护动作"),
    ),
    "tear": (
        "belt",
        ("lengthwise tear in the belt", "belt ripped along its length", "tear detector tripped, belt is cut"),
        ("胶带纵向撕裂", "胶带顺长撕开一道口", "撕裂保护动作，胶带划开"),
    ),
    "splice_damage": (
        "splice",
        ("splice opening at one edge", "clips pulling out of the joint", "vulcanised joint is lifting"),
        ("接头一侧开胶", "接头卡子脱出", "硫化接头翘起"),
    ),
    "seized_idler": (
        "idler",
        ("return idler does not turn", "carrying idler stuck and squealing", "one roller is seized"),
        ("下托辊不转", "上托辊卡死有尖叫声", "一只托辊卡住"),
    ),
    "hot_bearing": (
        "bearing",
        ("drum bearing too hot to touch", "bearing temperature alarm", "bearing of the bend drum is hot and noisy"),
        ("滚筒轴承烫手", "轴承温度报警", "改向滚筒轴承发热有异响"),
    ),
    "blocked_chute": (
        "chute",
        ("transfer chute blocked with coal", "chute is full, coal piling up", "pile-up switch tripped at the transfer"),
        ("转载溜槽堵煤", "溜槽满了，煤堆起来", "转载点堆煤保护动作"),
    ),
    "smoke": (
        "belt",
        ("smoke from under the belt", "smell of burnt rubber and smoke", "smoke detector alarm at the belt"),
        ("胶带下面冒烟", "有胶皮焦味并冒烟", "胶带处烟雾报警"),
    ),
    "gearbox_leak": (
        "gearbox",
        ("oil leaking from the gearbox", "gearbox oil level falling, oil on the floor", "seal of the reducer weeping oil"),
        ("减速器漏油", "减速器油位下降，地上有油", "减速机油封渗油"),
    ),
    "worn_scraper": (
        "scraper",
        ("scraper worn out, carry-back under the head", "belt cleaner blade is gone", "scraper no longer touches the belt"),
        ("清扫器磨秃，机头下面带煤", "清扫器刮板掉了", "清扫器碰不到胶带"),
    ),
}  # fmt: skip
ACTIONS = {
    "inspect": ("sent a fitter to look", "已派钳工查看"),
    "replace": ("part to be changed", "需换件"),
    "adjust": ("being adjusted", "正在调整"),
    "clean": ("being cleared", "正在清理"),
    "none": ("nothing done yet", "还没处理"),
}
STATES = {"stopped": ("belt stopped", "已停机"), "running": ("still running", "仍在运行")}
FITTING = {  # what is done about a fault, beside "inspect" and "none"
    "misalignment": ("adjust",), "slip": ("adjust",), "tear": ("replace",), "splice_damage": ("replace",),
    "seized_idler": ("replace",), "hot_bearing": ("replace",), "blocked_chute": ("clean",), "smoke": (),
    "gearbox_leak": ("replace",), "worn_scraper": ("replace", "adjust"),
}  # fmt: skip
ALONG = (
    "misalignment",
    "tear",
    "splice_damage",
    "seized_idler",
    "smoke",
)  # anywhere along the belt; the others have their place
SYSTEMS = ("B", "M", "T", "CV")


def report(rng: random.Random, row: dict, language: str) -> str:
    """The report's words: who talks of a conveyor names it first or last."""
    chinese = language == "zh"
    said = rng.choice(FAULTS[row["fault"]][2 if chinese else 1])
    state, action = STATES[row["state"]][chinese], ACTIONS[row["action"]][chinese]
    conveyor, at = row["conveyor"], row["at_m"]
    if chinese:
        place = "" if at is None else f"，距机头{at}米"
        first = f"{conveyor}{place}，{said}，{state}，{action}。"
        last = f"{row['time']} {conveyor}{said}{place}。{action}，{state}。"
    else:
        place = "" if at is None else f" at {at} m from the head"
        first = f"{conveyor}{place}: {said}, {state}, {action}."
        last = f"{row['time']} {said}{place} on {conveyor}. {action.capitalize()}, {state}."
    return rng.choice((first, last))


def conveyor_fault(rng: random.Random, language: str) -> dict:
    """One report and its record."""
    fault = rng.choice(list(FAULTS))
    action = rng.choice(["inspect", "none", *FITTING[fault], *FITTING[fault]])
    row = {
        "conveyor": f"{rng.choice(SYSTEMS)}{rng.randint(1, 4)}{rng.randint(1, 9):02d}",
        "component": FAULTS[fault][0],
        "fault": fault,
        "at_m": 10 * rng.randint(1, 120) if fault in ALONG and rng.random() < 0.8 else None,
        "state": rng.choice(list(STATES)),
        "action": action,
        "time": f"{rng.randint(0, 23):02d}:{rng.randint(0, 11) * 5:02d}",
    }
    row["report"] = report(rng, row, language)
    del row["time"]  # a part of the wording only
    return row


def make(rows: int, seed: int) -> list[dict]:
    return distinct(conveyor_fault, rows, seed)
