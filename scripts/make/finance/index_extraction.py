"""Passages in Chinese on a share, a fund or the economy, and all indicators in them; columns of FinEval's index extraction."""

from __future__ import annotations

import json
import random

ROWS, SEED = 1050, 17
SUBJECTS = {
    "股票": ("江岭股份", "恒川科技", "北辰药业", "云石水泥", "南麓物流", "青屿食品", "瑞泊能源", "锦帆航运", "天枢仪器"),
    "基金": ("清河成长混合A", "远岫医药混合C", "松涛红利指数C", "临溪消费混合A", "望岳先进制造混合C", "晴川成长混合C"),
    "宏观": ("东洲", "南屏省", "云梦市", "北原省", "西泽市"),
}  # fmt: skip
# Indicator: lowest and highest value, decimals, unit, whether a plus sign is written.
INDICATORS = {
    "股票": {
        "收盘价": (3, 90, 2, "元", False),
        "涨跌幅": (-9, 9, 2, "%", True),
        "成交额": (1, 40, 2, "亿元", False),
        "换手率": (1, 12, 2, "%", False),
        "总市值": (20, 900, 2, "亿元", False),
        "主力净流入": (-9000, 9000, 2, "万元", False),
    },
    "基金": {
        "单位净值": (1, 4, 4, "元", False),
        "近一年最大回撤": (5, 40, 2, "%", False),
        "近一月涨跌幅": (-9, 9, 2, "%", True),
        "规模": (1, 90, 2, "亿元", False),
        "管理费率": (0.2, 1.5, 2, "%", False),
    },
    "宏观": {
        "CPI同比": (-1, 4, 1, "%", True),
        "出口额": (10, 900, 1, "亿美元", False),
        "社会融资规模": (100, 9000, 0, "亿元", False),
        "发行国债": (100, 5000, 0, "亿元", False),
    },
}
ASIDE = ("走势图供说明时参考。", "投资有风险，入市需谨慎。", "数据来源为公开披露信息。", "更多内容见正文。")


def value(rng: random.Random, low: float, high: float, decimals: int, unit: str, sign: bool) -> str:
    drawn = round(rng.uniform(low, high), decimals)
    return f"{drawn:+.{decimals}f}{unit}" if sign else f"{drawn:.{decimals}f}{unit}"


def passage(rng: random.Random, kind: str, subject: str, names: list[str]) -> tuple[str, list[str]]:
    """A sentence of a day with its indicators, and a statement of each."""
    day = f"{rng.randint(2022, 2025)}年{rng.randint(1, 12):02}月{rng.randint(1, 28):02}日"
    told = [(name, value(rng, *INDICATORS[kind][name])) for name in names]
    text = rng.choice(("截至{day}，{subject}的{all}。", "{day}，{subject}{all}。")).format(
        day=day, subject=subject, all=rng.choice(("，", "、")).join(f"{name}为{shown}" for name, shown in told)
    )
    return text, [f"{day}，{subject}的{name}为{shown}。" for name, shown in told]


def make(rows: int, seed: int) -> list[dict]:
    rng = random.Random(f"index_extraction {seed}")
    made: list[dict] = []
    seen: set[str] = set()
    while len(made) < rows:
        kind = rng.choice(list(SUBJECTS))
        subject = rng.choice(SUBJECTS[kind])
        names = rng.sample(list(INDICATORS[kind]), rng.choice((2, 3)))
        cut = rng.choice((len(names), len(names) - 1))  # in one passage, or in two of different days
        parts = [passage(rng, kind, subject, part) for part in (names[:cut], names[cut:]) if part]
        texts = [text for text, _ in parts] + rng.sample(ASIDE, 1)
        question = f"{subject}的{names[0]}是多少"
        prompt = "\n".join([f"问题：{question}", *(f"检索{n}：{text}" for n, text in enumerate(texts, 1))])
        if prompt in seen:
            continue
        seen.add(prompt)
        made.append(
            {
                "序号": str(len(made) + 1),
                "类型": kind,
                "端到端query": question,
                "基座大模型query": prompt,
                "参考答案": json.dumps([one for _, statements in parts for one in statements], ensure_ascii=False),
            }
        )
    return made
