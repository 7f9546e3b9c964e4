"""Quantities worked out by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from finetune.data.metric import Metric
from finetune.errors import DataError
from finetune.evaluate import metrics
from finetune.evaluate.metrics import check_metric
from finetune.evaluate.quantity import quantity, read_quantity
from finetune.evaluate.units import converted, unit_named

PLAIN = Metric(name="quantity", tolerance=0.01)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("12.5 %", "12.5", "%"), ("百分之十二点五", "12.5", "%"), ("百分之12.5", "12.5", "%"), ("５‰", "5", "‰"),
        ("5 per cent", "5", "%"), ("1,234.5 tonnes", "1234.5", "t"), ("１，２３４．５吨", "1234.5", "t"),
        ("1 234 567 t", "1234567", "t"), ("1\u202f234 t", "1234", "t"), ("3万", "30000", ""), ("1.2亿元", "120000000", "CNY"),
        ("3亿5000万元", "350000000", "CNY"), ("五百二十万", "5200000", ""), ("2 百万美元", "2000000", "USD"),
        ("$3.4 million", "3400000", "USD"), ("USD 3.4bn", "3400000000", "USD"), ("$12m", "12000000", "USD"),
        ("12m USD", "12000000", "USD"), ("12 m", "12", "m"), ("EUR 5k", "5000", "EUR"), ("¥1.2万", "12000", "CNY"),
        ("(1,234.5)", "-1234.5", ""), ("$(1,234)", "-1234", "USD"), ("($1,234)", "-1234", "USD"), ("(12) 万元", "-120000", "CNY"),
        ("−5 °C", "-5", "degC"), ("－5℃", "-5", "degC"), ("负三点五", "-3.5", ""), ("minus 7", "-7", ""), ("-$5", "-5", "USD"),
        ("12千克", "12", "kg"), ("12 千瓦时", "12", "kWh"), ("3万千瓦时", "30000", "kWh"), ("12 吨/天", "12", "t/d"),
        ("1.2×10³ m³/h", "1200", "m^3/h"), ("1.2e3 kg", "1200", "kg"), ("12 m2", "12", "m^2"), ("12 ㎡", "12", "m^2"),
        ("about 7 t, then 8 t.", "8", "t"), ("12 头", "12", "头"), ("12 t（一般）", "12", "t"), ("see (12) t and 3 t", "3", "t"),
    ],
)  # fmt: skip
def test_read(text, value, unit):
    found = read_quantity(text)
    assert (found.value, found.unit) == (Decimal(value), unit)


@pytest.mark.parametrize("text", ["", "none", "10-12 t", "10至12吨", "12,5", "1,23,4", "1" * 19, "10^5", "m3"])
def test_not_read(text):
    assert read_quantity(text) is None


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "near", "unit"),
    [
        ("12.5 tonnes", "12.5 t", 1, 1, 1), ("12.6 t", "12.5 t", 0, 1, 1), ("12.7 t", "12.5 t", 0, 0, 1),
        ("12.5 kg", "12.5 t", 0, 0, 0), ("12.5", "12.5 t", 0, 0, 0), ("12,500 kg", "12.5 t", 0, 0, 0),
        ("1,234,567 元", "123.5 万元", 1, 1, 1), ("1.235 million yuan", "123.5万元", 1, 1, 1), ("123.5 元", "123.5万元", 0, 0, 1),
        ("(12) 万元", "-12 万元", 1, 1, 1), ("12 万元", "(12) 万元", 0, 0, 1),
        ("12.5%", "12.5 ％", 1, 1, 1), ("0.125", "12.5%", 0, 0, 0),
        ("$5", "5 EUR", 0, 0, 0), ("12 头", "12头", 1, 1, 1), ("12 头牛", "12 头", 1, 1, 1), ("no idea", "3 t", 0, 0, 0),
        ("mass: 3 t\nspare: 9 t", "mass: 3 t", 1, 1, 1), ("mass 3 t", "mass: 3 t", 0, 0, 0),
    ],
)  # fmt: skip
def test_by_hand(answer, reference, exact, near, unit):
    """A hundredth of 12.5 t is 0.125 t; 1,234,567 rounds to 123.5 of ten thousand."""
    assert quantity(answer, reference, PLAIN) == {"exact": exact, "within_tolerance": near, "unit_right": unit}


def test_a_reference_without_a_unit_asks_for_none():
    assert quantity("12.5 kg", "12.5", PLAIN) == {"exact": 1, "within_tolerance": 1}


@pytest.mark.parametrize("answer", ["12.5 %", "0.125", "百分之十二点五", "125‰"])
def test_percent_as_a_hundredth(answer):
    percent = Metric(name="quantity", percent=True)
    assert (
        quantity(answer, "0.125", percent) == quantity(answer, "12.5%", percent) == {"exact": 1, "within_tolerance": 1}
    )
    assert quantity("12.5", "12.5%", percent)["exact"] == 0


def test_units_of_the_same_dimension():
    """An acre-like mu is a fifteenth of 10,000 m²; 20 °C is 68 °F; 36 km/h is 10 m/s."""
    pytest.importorskip("pint")
    metric = Metric(name="quantity", convert=True)
    for answer, reference in (
        ("12,500 kg", "12.5 t"), ("25 斤", "12.5 千克"), ("15 亩", "1 公顷"), ("68 °F", "20.0 ℃"), ("10 m/s", "36 km/h"),
        ("2 m3", "2000 升"), ("240 吨/天", "10 t/h"), ("3.6 MJ", "1 kWh"), ("90分钟", "1.5 小时"),
    ):  # fmt: skip
        assert quantity(answer, reference, metric) == {"exact": 1, "within_tolerance": 1, "unit_right": 1}, answer
    for answer, reference in (
        ("12 km", "12 t"),
        ("5 USD", "35 元"),
        ("5 h^9999999999", "5 s"),
        ("12 头", "12 t"),
        ("3 ((", "3 t"),
    ):
        assert quantity(answer, reference, metric) == {"exact": 0, "within_tolerance": 0, "unit_right": 0}, answer
    assert (
        quantity("12,400 kg", "12.5 t", Metric(name="quantity", convert=True, tolerance=0.01))["within_tolerance"] == 1
    )
    assert converted(Decimal(3), "", "t") is None and converted(Decimal(3), "nonsense", "t") is None


def test_conversion_without_its_library_is_refused(monkeypatch):
    monkeypatch.setattr(metrics, "no_converter", lambda: "metric quantity: `convert: true` needs pint")
    with pytest.raises(DataError, match=r"t\.yaml: metric quantity: `convert: true` needs pint"):
        check_metric(Metric(name="quantity", convert=True), "t.yaml")


def test_names_of_units():
    assert [unit_named(text) for text in ("Tonnes", "mPa", "MPa", "吨/天", "吨/x", "公斤")] == [
        "t", None, "MPa", "t/d", None, "kg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["92 mL/min/1.73m2", "92 mL/min/1.73 m²", "92 mL/min per 1.73 m2", "eGFR is 92 mL/min/1.73 m^2"]
)
def test_a_number_inside_a_unit_is_no_value(text):
    """An eGFR is given per 1.73 square metres: read as the last number, every such answer would have been right."""
    metric = Metric(name="quantity")
    assert quantity(text, "92 mL/min/1.73m2", metric) == {"exact": 1, "within_tolerance": 1, "unit_right": 1}
    assert quantity(text, "80 mL/min/1.73m2", metric)["exact"] == 0
    assert quantity("92 mL/min", "92 mL/min/1.73m2", metric)["unit_right"] == 0
    assert quantity("6.5 L/100 km", "6.5 L/100km", metric)["exact"] == 1
