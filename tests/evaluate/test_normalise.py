"""What is taken for the same text, and Chinese numerals, by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune.data.metric import Metric
from finetune.errors import DataError
from finetune.evaluate import metrics, normalise
from finetune.evaluate.metrics import check_metric, exact_match, fields
from finetune.evaluate.normalise import chinese_number, normalised, result_of


@pytest.mark.parametrize(
    ("text", "what", "same"),
    [
        (" ＡＢ１２ ", ["width"], "AB12"), ("Straße", ["case"], "strasse"), ("煤 矿 A 区\n二  号", ["space"], "煤矿A区二号"),
        ("two  words\there", ["space"], "two words here"), ("“是”，对吗？No!", ["punctuation", "space"], "是对吗No"),
        ("1,234.5 t, -3 °C; 5%", ["punctuation"], "1234.5 t -3 °C 5%"), ("a_b-c", ["punctuation"], "a b c"), (" x ", [], "x"),
    ],
)  # fmt: skip
def test_normalised(text, what, same):
    assert normalised(text, what) == same


def test_traditional_characters():
    pytest.importorskip("opencc")
    assert normalised("煤礦開採許可證", ["traditional"]) == "煤矿开采许可证"
    check_metric(Metric(name="exact_match", normalise=("traditional",)))


def test_traditional_without_its_library_is_refused(monkeypatch):
    monkeypatch.setattr(normalise.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"normalise: traditional needs OpenCC, .*pip install 'finetune\[chinese\]'"):
        check_metric(Metric(name="exact_match", normalise=("traditional",)))
    assert metrics.exact_match("a", "a", Metric(name="exact_match")) == {"exact_match": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("零", 0), ("十", 10), ("十二", 12), ("二十", 20), ("一百零五", 105), ("一百二", 120), ("一百二十", 120),
        ("两千零八", 2008),
        ("二〇二四", 2024), ("一万二", 12000), ("一万零二十", 10020), ("三千五百万", 35000000), ("一亿零五十万", 100500000),
        ("一万亿", 10**12), ("叁佰贰拾壹", 321), ("壹萬", 10000), ("三点一四", "3.14"), ("负十点五", "-10.5"),
        ("〇点零五", "0.05"),
        ("百万", 10**6), ("一千二百三十四万五千六百七十八", 12345678),
    ],
)  # fmt: skip
def test_chinese_numbers(text, value):
    assert chinese_number(text) == Decimal(value)


@pytest.mark.parametrize(
    "text", ["", "点五", "三点", "万", "十百", "三点十", "百分之", "一十百", "a", "二百三百", "点", "负"]
)
def test_no_chinese_numbers(text):
    assert chinese_number(text) is None


def written(value: int) -> str:
    """The numeral of a number below 10,000, by the rule for zeros in between."""
    text = ""
    for power, unit in ((3, "千"), (2, "百"), (1, "十"), (0, "")):
        digit = value // 10**power % 10
        if digit:
            text += "零一二三四五六七八九"[digit] + unit
        elif text and not text.endswith("零"):
            text += "零"
    return text.rstrip("零") or "零"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 9999), st.integers(1, 9999))
def test_every_numeral_comes_back(low, high):
    assert chinese_number(written(low)) == low
    zero = "零" if 0 < low < 1000 else ""
    text = f"{written(high)}万{zero}{written(low) if low else ''}"
    assert chinese_number(text) == high * 10_000 + low


def test_the_result_line():
    assert result_of("a: 1\nb: 2\nb: 3", "x\nb: 9", ": ") == ("3", "9")
    assert result_of("a: 1", "b: 9", ": ") == ("", "9")
    assert result_of("a 1", "9", ": ") == ("a 1", "9")
    assert result_of("a", "", ": ") == ("a", "")


def test_as_a_setting():
    loose = Metric(name="exact_match", normalise=("width", "case", "punctuation", "space"))
    assert exact_match("ＡＢ 矿。", "ab矿", loose) == {"exact_match": 1}
    assert exact_match("AB", "ab", Metric(name="exact_match")) == {"exact_match": 0}
    assert (
        fields("Ore： Cu", "ore: cu", Metric(name="fields", normalise=("case",)))["all_fields"] == 0
    )  # another separator
    assert fields("Ore: CU", "ore: cu", Metric(name="fields", normalise=("case",))) == {
        "field_match": 1, "all_fields": 1, "field/ore": 1,
    }  # fmt: skip
    with pytest.raises(ValidationError, match=r"`normalise` is for metric contains and .*, this is number"):
        Metric(name="number", normalise=("case",))
    with pytest.raises(ValidationError, match="Input should be 'width'"):
        Metric.model_validate({"name": "exact_match", "normalise": ["widht"]})
