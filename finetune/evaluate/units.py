"""Names of units in English and Chinese, and one value in another unit of the same dimension."""

from __future__ import annotations

import importlib.util
import re
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

# The name used here (and by pint, but for money and counts), and others for the same.
_NAMES = {
    "%": "% percent pct 百分比",
    "‰": "‰ permille",
    "ppm": "ppm",
    "CNY": "元 人民币 元人民币 圆 RMB CNY yuan ¥ 块钱",
    "USD": "$ US$ USD 美元 dollar dollars",
    "EUR": "€ EUR 欧元 euro euros",
    "GBP": "£ GBP 英镑",
    "JPY": "JPY 日元 日圆 yen",
    "HKD": "HK$ HKD 港元 港币",
    "mg": "mg 毫克 milligram milligrams",
    "g": "g 克 gram grams",
    "kg": "kg 公斤 千克 KG Kg kilogram kilograms",
    "t": "t 吨 公吨 tonne tonnes",
    "jin": "斤 市斤",
    "mm": "mm 毫米 millimetre millimetres millimeter millimeters",
    "cm": "cm 厘米 centimetre centimetres centimeter centimeters",
    "m": "m 米 metre metres meter meters",
    "km": "km 公里 千米 KM kilometre kilometres kilometer kilometers",
    "m^2": "m2 m^2 平方米 平米 sqm",
    "km^2": "km2 km^2 平方公里 平方千米",
    "ha": "ha 公顷 hectare hectares",
    "mu": "亩 市亩",
    "m^3": "m3 m^3 立方米 立方",
    "L": "L l 升 litre litres liter liters",
    "mL": "mL ml 毫升",
    "s": "s 秒 秒钟 second seconds sec",
    "min": "min 分钟 minute minutes",
    "h": "h 小时 个小时 hour hours hr hrs",
    "d": "d 天 day days",
    "month": "个月 月 month months",
    "year": "年 year years yr",
    "W": "W 瓦 watt watts",
    "kW": "kW 千瓦 kilowatt kilowatts",
    "MW": "MW 兆瓦 megawatt megawatts",
    "kWh": "kWh 千瓦时 kwh KWH",
    "MWh": "MWh 兆瓦时",
    "V": "V 伏 volt volts",
    "kV": "kV 千伏",
    "A": "A 安培 ampere amperes",
    "Pa": "Pa 帕",
    "kPa": "kPa 千帕",
    "MPa": "MPa 兆帕",
    "degC": "°C degC 摄氏度 Celsius",
    "degF": "°F degF 华氏度 Fahrenheit",
    "K": "K 开 kelvin",
}
NAMES = {name: unit for unit, names in _NAMES.items() for name in names.split()}
MONEY = frozenset(("CNY", "USD", "EUR", "GBP", "JPY", "HKD"))
# English words in any case; short symbols as they are written, for mPa is not MPa.
_WORDS = {name.casefold(): unit for name, unit in NAMES.items() if name.isascii() and len(name) > 3}
# Market units by the State Council's order of 1959: a jin is half a kilogram, 15 mu are a hectare.
_MARKET = ("jin = 0.5 * kilogram", "mu = hectare / 15")


def unit_named(text: str) -> str | None:
    """The unit's own name here for one of its names; of `吨/天` each part's. None for one that is not in the table."""
    text = text.strip()
    if text in NAMES:
        return NAMES[text]
    if text.casefold() in _WORDS:
        return _WORDS[text.casefold()]
    if "/" in text:
        parts = [unit_named(part) for part in text.split("/")]
        return "/".join(part for part in parts if part) if all(parts) else None
    return None


def no_converter() -> str | None:
    """Why units can't be converted; None when they can."""
    if importlib.util.find_spec("pint") is not None:
        return None
    return "metric quantity: `convert: true` needs pint, which is not installed (pip install 'finetune[units]')"


def converted(value: Decimal, unit: str, to: str) -> Decimal | None:
    """A value in another unit; None where one of them is unknown or they differ in dimension, as kinds of money do."""
    if unit == to:
        return value
    if not unit or not to or {unit, to} & MONEY:
        return None
    try:
        return Decimal(_registry().Quantity(value, _spelt(unit)).to(_spelt(to)).magnitude)
    except (InvalidOperation, ArithmeticError, ValueError, TypeError, AssertionError, AttributeError, RecursionError):
        return None
    except _registry_errors():
        return None


def _spelt(unit: str) -> str:
    """m3/h as m^3/h."""
    return re.sub(r"(?<=[A-Za-z])(-?\d)\b", r"^\1", unit)


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    registry = pint.UnitRegistry(non_int_type=Decimal)
    for definition in _MARKET:
        registry.define(definition)
    return registry


def _registry_errors() -> tuple[type[Exception], ...]:
    import tokenize

    import pint

    return (pint.PintError, tokenize.TokenError, SyntaxError)
