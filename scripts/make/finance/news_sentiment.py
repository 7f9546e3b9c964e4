"""Company news of one sentence, Chinese and English, whose label follows from its facts by the rule in the data template.

Half of it is on results, with cases that are easily confused: a loss that narrowed, growth below what was expected.
"""

from __future__ import annotations

import random

from scripts.make.cases import Row, distinct

ROWS, SEED = 1100, 17
FLAT = 1.0  # percent: a change no larger is none
COMPANIES = {
    "zh": ("江岭股份", "恒川科技", "北辰药业", "云石水泥", "南麓物流", "青屿食品", "瑞泊能源", "沃原农业", "锦帆航运", "天枢仪器",
           "和畅环保", "明汐电子", "广陵机械", "岱岳矿业", "海蓝纺织"),
    "en": ("Aldermoor", "Brackwater", "Dunmere Foods", "Eastholm Steel", "Garrowby Energy", "Hartsea Lines", "Kelbrook",
           "Larkhill Pharma", "Mossgate", "Oakhurst Paper", "Pennant Rail", "Redfell Mining"),
}  # fmt: skip
# Event: its label, then a sentence in Chinese and in English; {n} is a number, {p} a percentage.
EVENTS = {
    "fined": ("negative", "因信息披露违规被监管部门罚款{n}万元", "was fined {n} thousand dollars for late disclosure"),
    "sued": ("negative", "被供应商起诉，涉案金额{n}万元", "was sued by a supplier for {n} thousand dollars"),
    "sells": ("negative", "股东拟减持不超过总股本的{p}%", "said a shareholder plans to sell up to {p}% of its shares"),
    "pledges": ("negative", "控股股东质押所持股份的{p}%", "said its main shareholder pledged {p}% of its holding"),
    "recall": ("negative", "召回{n}件存在缺陷的产品", "recalled {n} faulty products"),
    "lost_order": (
        "negative",
        "与客户终止{n}万元的销售合同",
        "said a contract worth {n} thousand dollars was terminated",
    ),
    "halted": ("negative", "主要生产线停产检修，预计减产{p}%", "halted its main line, which will cut output by {p}%"),
    "won_order": ("positive", "中标{n}万元的采购项目", "won an order worth {n} thousand dollars"),
    "buys_back": ("positive", "拟以{n}万元回购股份", "plans to buy back shares for {n} thousand dollars"),
    "adds": ("positive", "控股股东增持总股本的{p}%", "said its main shareholder bought another {p}% of its shares"),
    "sale_ended": (
        "positive",
        "股东提前终止减持{p}%股份的计划",
        "said a shareholder dropped its plan to sell {p}% of its shares",
    ),
    "released": (
        "positive",
        "控股股东解除质押所持股份的{p}%",
        "said {p}% of the main shareholder's holding is no longer pledged",
    ),
    "suit_won": ("positive", "胜诉，获赔{n}万元", "won a lawsuit and {n} thousand dollars in damages"),
    "fine_lifted": ("positive", "此前{n}万元的罚款决定被撤销", "said a fine of {n} thousand dollars was revoked"),
    "meeting": ("neutral", "定于{m}月{d}日召开股东大会", "will hold its annual meeting on {d}/{m}"),
    "moved": ("neutral", "办公地址变更为新城路{n}号", "moved its office to {n} Mill Road"),
    "auditor": ("neutral", "续聘会计师事务所，审计费用{n}万元", "reappointed its auditor for {n} thousand dollars"),
    "reply": ("neutral", "回复交易所第{n}号问询函", "answered letter no. {n} of the exchange"),
    "secretary": (
        "neutral",
        "聘任证券事务代表，其持股{p}%",
        "named a new company secretary, who holds {p}% of the shares",
    ),
    "report_day": ("neutral", "将于{m}月{d}日披露季度报告", "will publish its quarterly report on {d}/{m}"),
    "renamed": ("neutral", "证券简称变更，证券代码60{n}不变", "changed its short name and keeps its code 60{n}"),
}
LABELS = {"zh": {"positive": "正面", "negative": "负面", "neutral": "中性"}}


def make(rows: int, seed: int) -> list[Row]:
    return distinct(news_sentiment, rows, seed)


def by_change(better: float, share: float) -> str:
    """The rule for results: better or worse, or no more than FLAT percent of a difference."""
    return "neutral" if abs(share) <= FLAT else "positive" if better > 0 else "negative"


def results(rng: random.Random, zh: bool) -> tuple[str, str, str]:
    """Profit against last year's, either of which may be a loss: event, text, label."""
    last = rng.choice((-1, 1, 1)) * rng.randint(150, 9_800)
    now = rng.choice((-1, 1, 1)) * round(abs(last) * rng.uniform(0.3, 2.2))
    if rng.random() < 0.15:
        now = round(last * (1 + rng.uniform(-0.009, 0.009)))
    words = ("盈利", "亏损") if zh else ("a profit", "a loss")
    said, before = (words[value < 0] for value in (now, last))
    event = {(0, 0): "profit", (1, 1): "loss", (0, 1): "turned_up", (1, 0): "turned_down"}[(now < 0, last < 0)]
    share = (now - last) / abs(last) * 100
    if event == "profit" and rng.random() < 0.5:
        share = round(share, 1)
        if zh:
            text = f"净利润{now}万元，同比{'增长' if share >= 0 else '下降'}{abs(share):g}%"
        else:
            text = f"reported net profit of {now} thousand dollars, {'up' if share >= 0 else 'down'} {abs(share):g}%"
    elif zh:
        text = f"本期{said}{abs(now)}万元，上年同期{before}{abs(last)}万元"
    else:
        text = f"reported {said} of {abs(now)} thousand dollars, after {before} of {abs(last)} thousand a year earlier"
    return event, text, by_change(now - last, share)


def expected(rng: random.Random, zh: bool) -> tuple[str, str, str]:
    """A change of profit or revenue against the one expected, which alone decides: event, text, label."""
    change, wanted = (rng.choice((-1, 1, 1)) * rng.randint(2, 60) for _ in range(2))
    if rng.random() < 0.15:
        wanted = change
    what = rng.choice((("净利润", "net profit"), ("营业收入", "revenue")))[0 if zh else 1]
    if zh:
        up, hoped = ("增长" if value > 0 else "下降" for value in (change, wanted))
        text = f"{what}同比{up}{abs(change)}%，市场预期为{hoped}{abs(wanted)}%"
    else:
        up, hoped = ("rose" if change > 0 else "fell"), ("a rise" if wanted > 0 else "a fall")
        text = f"said {what} {up} {abs(change)}%; analysts had expected {hoped} of {abs(wanted)}%"
    return "expected", text, by_change(change - wanted, change - wanted)


def news_sentiment(rng: random.Random, language: str) -> Row:
    zh = language == "zh"
    kind = rng.random()
    if kind < 0.25:
        event, text, label = results(rng, zh)
    elif kind < 0.5:
        event, text, label = expected(rng, zh)
    else:
        event = rng.choice(list(EVENTS))
        label, chinese, english = EVENTS[event]
        text = (chinese if zh else english).format(
            n=rng.randint(20, 9_800), p=rng.randint(2, 49) / 10, d=rng.randint(1, 28), m=rng.randint(1, 12)
        )
    company = rng.choice(COMPANIES[language])
    text = f"{company}：{text}。" if zh else f"{company} {text}."
    label = LABELS.get(language, {}).get(label, label)
    return {"company": company, "event": event, "text": text, "label": label}
