"""Customers' sums in Chinese with two passages, one of which has the figure; columns of FinEval's numerical calculation.

Results are exact fractions rounded to two decimals; ties are not used.
"""

from __future__ import annotations

import random
from fractions import Fraction

ROWS, SEED = 1050, 17
FUNDS = tuple(
    f"{house}{what}{kind}"
    for house in ("清河", "远岫", "松涛", "临溪", "望岳", "晴川")
    for what in ("成长", "医药", "先进制造", "红利", "消费")
    for kind in ("混合A", "混合C", "指数C")
)
Sum = tuple[str, str, str, Fraction, str]  # question, passage, sum, value, unit


def units(rng: random.Random) -> tuple[int, Fraction, str]:
    """Units held, and a fund's value per unit, also as text."""
    per_unit = Fraction(rng.randint(6_001, 39_999), 10_000)
    return rng.randint(20, 900) * 10, per_unit, f"{float(per_unit):.4f}"


def worth(rng: random.Random, fund: str) -> Sum:
    held, per_unit, shown = units(rng)
    return f"我有{held}份{fund}，值多少钱？", f"{fund}最新单位净值{shown}元。", f"{held}*{shown}", held * per_unit, "元"


def bought(rng: random.Random, fund: str) -> Sum:
    amount = rng.randint(5, 500) * 100
    _, per_unit, shown = units(rng)
    question = f"{amount}元能买多少份{fund}？不计申购费。"
    return question, f"{fund}单位净值为{shown}元。", f"{amount}/{shown}", amount / per_unit, "份"


def redeemed(rng: random.Random, fund: str) -> Sum:
    held, per_unit, shown = units(rng)
    fee = rng.choice((Fraction(5, 1000), Fraction(75, 10_000), Fraction(15, 1000)))
    text = f"{float(fee * 100):g}%"
    question, passage = f"赎回{held}份{fund}到手多少钱？", f"{fund}单位净值{shown}元，持有期对应的赎回费率为{text}。"
    return question, passage, f"{held}*{shown}*(1-{text})", held * per_unit * (1 - fee), "元"


def moved(rng: random.Random, fund: str) -> Sum:
    amount, rate = rng.randint(10, 900) * 100, rng.choice((-1, 1)) * rng.randint(5, 480)
    text = f"{rate / 100:g}%"
    question, passage = f"我投了{amount}元{fund}，今天盈亏多少？", f"{fund}今日涨跌幅{text}。"
    return question, passage, f"{amount}*{text}", amount * Fraction(rate, 10_000), "元"


def gold(rng: random.Random, fund: str) -> Sum:
    grams, cost, now = rng.randint(10, 500), rng.randint(380, 620), rng.randint(38_000, 78_000)
    shown = f"{now / 100:.2f}"
    question, passage = f"我以{cost}元/克买了{grams}克黄金，现在盈亏多少？", f"黄金现价{shown}元/克。"
    return question, passage, f"({shown}-{cost})*{grams}", (Fraction(now, 100) - cost) * grams, "元"


def interest(rng: random.Random, fund: str) -> Sum:
    amount, rate, days = rng.randint(1, 90) * 1000, rng.randint(110, 420), rng.choice((7, 30, 60, 90, 180, 270))
    text = f"{rate / 100:g}%"
    question, passage = f"{amount}元存{days}天，利息多少？按365天计。", f"该产品年化利率为{text}，单利。"
    return question, passage, f"{amount}*{text}/365*{days}", amount * Fraction(rate, 10_000) * days / 365, "元"


def annualised(rng: random.Random, fund: str) -> Sum:
    amount, gain, days = rng.randint(10, 300) * 1000, rng.randint(20, 2_000), rng.choice((30, 60, 90, 120, 180))
    question, passage = f"{amount}元{days}天收益{gain}元，年化收益率多少？", "年化收益率按全年365天计算，不计复利。"
    return question, passage, f"{gain}/{amount}/{days}*365", Fraction(gain * 365 * 100, amount * days), "%"


def commission(rng: random.Random, fund: str) -> Sum:
    held, price, rate = rng.randint(2, 90) * 100, rng.randint(300, 19_900), rng.choice((25, 30, 50, 80))
    shown, text = f"{price / 100:.2f}", f"{rate / 1000:g}%"
    question, passage = f"卖出{held}股，成交价{shown}元，佣金多少？", f"佣金按成交金额的{text}收取。"
    return question, passage, f"{held}*{shown}*{text}", held * Fraction(price, 100) * Fraction(rate, 100_000), "元"


KINDS = (worth, bought, redeemed, moved, gold, interest, annualised, commission)
ASIDE = (
    "{fund}成立于2019年4月，基金经理任职满3年。", "{fund}近一月涨跌幅走势图，供说明趋势时参考。", "{fund}最新规模为12.6亿元。",
    "投资有风险，过往业绩不代表未来表现。", "{fund}近三年最大回撤为23.41%。", "交易时间为交易日9:30至15:00。",
)  # fmt: skip
OPENING = ("根据检索内容回答用户问题。", "下面是检索到的资料，请据此回答。", "请只用检索到的内容回答问题。")


def make(rows: int, seed: int) -> list[dict]:
    rng = random.Random(f"fund_sums {seed}")
    made: list[dict] = []
    seen: set[str] = set()
    while len(made) < rows:
        fund = rng.choice(FUNDS)
        question, passage, working, value, unit = KINDS[len(made) % len(KINDS)](rng, fund)
        beyond = abs(value) * 100
        if working in seen or abs(beyond - int(beyond) - Fraction(1, 2)) < Fraction(1, 1000) or abs(value) < 1:
            continue
        seen.add(working)
        passages = [passage, rng.choice(ASIDE).format(fund=fund)]
        rng.shuffle(passages)
        day = f"2024年{rng.randint(1, 12):02}月{rng.randint(1, 28):02}日"
        prompt = [rng.choice(OPENING), f"问题：{question}", *(f"检索{n}：{text}" for n, text in enumerate(passages, 1))]
        made.append(
            {
                "序号": str(len(made) + 1),
                "类型": "数值计算",
                "端到端query": question,
                "基座query": "\n".join([*prompt, f"当前时间：{day}"]),
                "标准答案": f"{float(round(value, 2)):.2f}{unit}",
                "题目答案计算逻辑": working,
            }
        )
    return made
