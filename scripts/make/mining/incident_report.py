"""Made-up first notices of mine accidents, and the report with its grade, in Chinese and English.

Contents, grades and addressees follow the PRC regulations on reporting and investigating production safety accidents
(生产安全事故报告和调查处理条例, decree 493 of 2007): articles 12, 3 and 10. Slight injuries don't count for the grade. Tolls of
all grades are about as frequent, which they are not in life.
"""

from __future__ import annotations

import random
from fractions import Fraction

from scripts.make.cases import distinct

ROWS, SEED = 1200, 53
GRADES = ("ordinary", "fairly_serious", "serious", "especially_serious")
BOUNDS = {
    "deaths": (3, 10, 30),
    "serious_injuries": (10, 50, 100),
    "loss_wan": (1000, 5000, 10000),
}  # "以上" includes them
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "roof": (("roof fall", "rib collapse"), ("顶板冒落", "煤壁片帮")),
    "gas": (("gas explosion", "coal and gas outburst"), ("瓦斯爆炸", "煤与瓦斯突出")),
    "machinery": (("electric shock at a switch", "fitter caught in a shearer"), ("检修开关触电", "检修采煤机被绞")),
    "transport": (("runaway of a mine car", "worker drawn into a conveyor"), ("斜巷跑车", "人员被胶带卷入")),
    "blasting": (("misfire went off", "hit by flyrock"), ("处理拒爆时爆炸", "爆破崩人")),
    "water": (("water inrush", "flood from old workings"), ("工作面透水", "老空区突水")),
    "fire": (("conveyor fire", "fire at a transformer"), ("胶带着火", "变压器着火")),
}
MEASURES: dict[str, tuple[str, str]] = {
    "withdrawn": ("people withdrawn", "人员已撤出"),
    "rescue": ("rescue team underground", "救护队已下井"),
    "power_cut": ("power cut", "已停电"),
    "sealed": ("area fenced off", "现场已封锁"),
}
MINES = (
    ("Donggou", "东沟"), ("Baishi", "白石"), ("Heling", "鹤岭"), ("Nanping", "南坪"), ("Yunfeng", "云峰"), ("Taohe", "桃河"),
    ("Xinli", "新立"), ("Shuangquan", "双泉"), ("Longkou No. 2", "龙口二"), ("Qingyang", "青阳"), ("Changling", "长岭"),
    ("Hongyan", "红岩"),
)  # fmt: skip
PLACES = (
    ("face {n}", "{n}工作面"), ("heading {n}", "{n}掘进头"), ("incline {n}", "{n}斜巷"), ("roadway {n}", "{n}巷道"),
)  # fmt: skip


def grade(toll: dict[str, int]) -> str:
    """The worst of what deaths, serious injuries and loss each come to."""
    return GRADES[max(sum(toll[name] >= bound for bound in bounds) for name, bounds in BOUNDS.items())]


def count(rng: random.Random, name: str, level: int) -> int:
    """A number of this grade, at its lower bound once in three."""
    bounds = (0, *BOUNDS[name], 2 * BOUNDS[name][-1])
    low, high = bounds[level], bounds[level + 1] - 1
    if name == "loss_wan":
        low, high = max(10, low), high // 10 * 10
        return low if level and rng.random() < 1 / 3 else 10 * rng.randint(low // 10, high // 10)
    return low if rng.random() < 1 / 3 else rng.randint(low, min(high, low + 12))


def number(value: Fraction) -> str:
    return f"{float(value):.4f}".rstrip("0").rstrip(".")


def notice(rng: random.Random, row: dict, chinese: bool) -> str:
    """The words that come over the telephone."""
    said = rng.choice(KINDS[row["kind"]][chinese])
    measure = MEASURES[row["measure"]][chinese]
    slight, wan = rng.choice((0, 0, rng.randint(1, 20))), row["loss_wan"]
    hurt = []
    if chinese:
        hurt += [f"死亡{row['deaths']}人"] if row["deaths"] else []
        hurt += [f"重伤{row['serious_injuries']}人"] if row["serious_injuries"] else []
        hurt += [f"轻伤{slight}人"] if slight else []
        loss = f"{number(Fraction(wan, 10000))}亿元" if wan >= 10000 else f"{wan}万元"
        return f"{row['time']}，{row['mine']}煤矿{row['place']}{said}，{'，'.join([*hurt, f'损失约{loss}', measure])}。"
    hurt += [f"{row['deaths']} dead"] if row["deaths"] else []
    hurt += [f"{row['serious_injuries']} seriously hurt"] if row["serious_injuries"] else []
    hurt += [f"{slight} slightly hurt"] if slight else []
    loss = f"loss about {number(Fraction(wan, 100))} million yuan"
    return f"{row['time']}, {row['mine']} mine, {row['place']}: {said}, {', '.join([*hurt, loss, measure])}."


def incident_report(rng: random.Random, language: str) -> dict:
    """One accident; two of its three figures are of its grade or below."""
    chinese = language == "zh"
    level = rng.choice((0, 0, 1, 1, 2, 2, 3))
    levels = [level, rng.randint(0, level), rng.randint(0, level)]
    rng.shuffle(levels)
    toll = {name: count(rng, name, of) for name, of in zip(BOUNDS, levels, strict=True)}
    month, day, clock = rng.randint(1, 12), rng.randint(1, 28), f"{rng.randint(0, 23)}:{rng.randint(0, 11) * 5:02d}"
    row = {
        "mine": rng.choice(MINES)[chinese],
        "time": f"{month}月{day}日{clock}" if chinese else f"{day}/{month} {clock}",
        "place": rng.choice(PLACES)[chinese].format(n=f"{rng.randint(1, 9)}{rng.randint(1, 9):02d}"),
        "kind": rng.choice(list(KINDS)),
        **toll,
        "measure": rng.choice(list(MEASURES)),
    }
    return row | {
        "grade": grade(toll),
        "notice": notice(rng, row, chinese),
        "toll": " ".join(str(value) for value in toll.values()),
    }


def make(rows: int, seed: int) -> list[dict]:
    return distinct(incident_report, rows, seed)
