"""The finance pack's prose, read back: labels of news by the stated rule, records and statements by searching the text."""

from __future__ import annotations

import json
import re
from fractions import Fraction

from jsonschema import Draft202012Validator

from finetune.data.template import load_template
from tests.packs.test_finance import FOLDER, NUMBER, number, rows


def news_label(text: str) -> str:
    """The rule in the template's description, from the words alone."""

    def decided(change: float, share: float) -> str:
        return "neutral" if abs(share) <= 1 else "positive" if change > 0 else "negative"

    signs = {"增长": 1, "rose": 1, "rise": 1, "up": 1, "盈利": 1, "profit": 1} | dict.fromkeys(
        ("下降", "fell", "fall"), -1
    )
    signs |= {"down": -1, "亏损": -1, "loss": -1}
    moves = re.findall(r"(增长|下降|rose|fell|rise of|fall of|\bup|\bdown) ?([\d.]+)%", text)
    if "预期" in text or "expected" in text:
        change, wanted = (signs[word.removesuffix(" of")] * float(size) for word, size in moves)
        return decided(change - wanted, change - wanted)
    if ("净利润" in text or "net profit" in text) and moves:
        change = signs[moves[0][0]] * float(moves[0][1])
        return decided(change, change)
    amounts = re.findall(r"(盈利|亏损|profit|loss)(?: of )?(\d+)", text)
    if len(amounts) == 2:
        now, last = (signs[word] * int(size) for word, size in amounts)
        return decided(now - last, (now - last) / abs(last) * 100)
    good = "解除质押|no longer pledged|提前终止|dropped its plan|撤销|revoked|胜诉|won|回购|buy back|增持|bought another|中标"
    bad = "罚款|was fined|起诉|was sued|减持|plans to sell|质押|pledged|召回|recalled|终止|terminated|停产|halted"
    return "positive" if re.search(good, text) else "negative" if re.search(bad, text) else "neutral"


def test_news_labels_follow_the_rule_read_from_the_text():
    english = {"正面": "positive", "负面": "negative", "中性": "neutral"}
    assert (
        news_label("恒川科技：净利润同比增长12%，市场预期为增长20%。") == "negative"
    )  # growth below what was expected
    assert news_label("江岭股份：本期亏损300万元，上年同期亏损800万元。") == "positive"  # a loss that narrowed
    for row in rows("news_sentiment"):
        assert news_label(row["text"]) == english.get(row["label"], row["label"]), row


def read_report(text: str, zh: bool) -> dict:
    """Year, amounts in 万元 or million, changes and dividend, by searching the text."""
    size = {"亿元": 10_000, "万元": 1, "billion": 1000, "million": 1, "thousand": Fraction(1, 1000)}
    units, sign = "|".join(size), {"增长": 1, "up": 1, "下降": -1, "down": -1}
    revenue = re.search(rf"(?:实现营业收入|had revenue of )\$?({NUMBER}) ?({units})([^；;]*?)(?:；|, and )", text)
    profit = re.search(
        rf"(净利润|净亏损|net profit of|net loss of) ?\$?({NUMBER}) ?({units})([^。]*?)(?:。|\.(?: |$))", text
    )

    def change(told: str) -> Fraction | None:
        found = re.search(r"(增长|下降|up|down) ?([\d.]+)%", told)
        return sign[found[1]] * number(found[2]) if found else Fraction(0) if "平" in told or "unch" in told else None

    paid = re.search(r"红利([\d.]+)元" if zh else r"dividend is \$([\d.]+) a share", text)
    nothing = "不派发" in text or "No dividend" in text
    return {
        "year": Fraction(re.search(r"\d{4}", text)[0]),
        "revenue": number(revenue[1]) * size[revenue[2]],
        "revenue_change_pct": change(revenue[3]),
        "net_profit": number(profit[2]) * size[profit[3]] * (-1 if profit[1] in ("净亏损", "net loss of") else 1),
        "net_profit_change_pct": change(profit[4]),
        "dividend_per_share": number(paid[1]) if paid else Fraction(0) if nothing else None,
    }


def test_reports_are_what_their_text_says_and_fit_the_schema():
    """By hand: 12.5亿元 = 125,000万元; $640 thousand = 0.64 million."""
    schema = Draft202012Validator(load_template(FOLDER / "annual_report.yaml").metric.json_schema)
    for row in rows("annual_report"):
        assert schema.is_valid(row["report"]), row
        told = {name: None if value is None else Fraction(str(value)) for name, value in row["report"].items()}
        assert read_report(row["text"], row["language"] == "zh") == told, row


def test_statements_are_all_that_the_passages_say():
    for row in rows("index_extraction"):
        subject, found = row["端到端query"].partition("的")[0], set()
        for passage in re.findall(r"检索\d：(.+)", row["基座大模型query"]):
            day = re.search(r"\d{4}年\d{2}月\d{2}日", passage)
            for name, value in re.findall(r"([\w]+?)为([-+]?[\d.]+[^，、。]+)", passage):
                found.add(f"{day[0]}，{subject}的{name.removeprefix(subject).removeprefix('的')}为{value}。")
        said = json.loads(row["参考答案"])
        assert len(said) == len(set(said)) and set(said) == found, row
