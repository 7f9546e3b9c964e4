"""The mining pack's answers against judges of their own: each reads the prompt's words, not the columns they were made of."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from fractions import Fraction

import jsonschema
import numpy as np
import pytest

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.recipe_data import SourceSection
from tests.conftest import ROOT

FOLDER = ROOT / "data_templates/mining"


def samples(task: str, file: str | None = None) -> list:
    """The sample's rows (or those of `file`), rendered."""
    template = load_template(FOLDER / f"{task}.yaml")
    return template.render_all(read_source(SourceSection(path=file or str(FOLDER / f"{task}.sample.jsonl"))))


def pairs(task: str) -> list[tuple[str, dict[str, str]]]:
    """What is asked, and the lines of the answer by name."""
    return [(asked(one), fields(one)) for one in samples(task)]


def asked(sample) -> str:
    return str(sample.prompt[-1]["content"])


def fields(sample) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in sample.answer.splitlines() if ": " in line)


# Coal mine safety regulations (2016, amended 2022): place -> quantity -> limits, as their articles word them: "超过" is >,
# "达到" is >=, "不低于" breaks with <. The action is the first word of both languages' wording.
ACTIONS = {
    "none": ("carry on", "继续"), "cause": ("find the cause", "立即查明"), "withdraw": ("stop work, withdraw", "停止工作，撤出"),
    "drill": ("stop electric", "停止电钻"), "cut": ("stop work, cut", "停止工作，切断"),
    "cut 20": ("within 20 m stop", "附近20米"),
    "blasting": ("no blasting", "严禁爆破"), "air": ("ventilate", "加强通风"), "speed": ("adjust the air", "调节风量"),
}  # fmt: skip
CO = "CO > 24 air 135"
WORK = ("CH4 >= 1.5 cut 173", "CH4 >= 1.0 drill 173", "CO2 >= 1.5 withdraw 174", CO)
OUT = ("CH4 > 1.0 withdraw 172", "CO2 > 1.5 withdraw 172", CO)
WHOLE = ("CH4 > 0.75 cause 171", "CO2 > 0.75 cause 171", "v > 8 speed 136")
SLOW = ("v < 0.25 speed 136", "v > 4 speed 136")
RULES = (  # the first place whose words are in the prompt
    (r"cavity|空洞", ("CH4 >= 2.0 cut_20 173",)),
    (r"the shots|爆破地点", ("CH4 >= 1.0 blasting 173",)),
    (r"the motor|电动机", ("CH4 >= 1.5 cut 173",)),
    (r"main return|wing return|总回风|一翼回风", WHOLE),
    (r"intake|进风流", ("O2 < 20 air 135", "CO2 > 0.5 air 135", CO)),
    (r"return airway|回风巷", (*OUT, "v < 0.25 speed 136", "v > 6 speed 136")),
    (r"rock heading|岩巷掘进", ("v < 0.15 speed 136", "v > 4 speed 136")),
    (r"coal (face|heading)|采煤工作面|煤巷掘进", (*WORK, *SLOW)),
    (r"conveyor|运输机巷", ("v < 0.25 speed 136", "v > 6 speed 136", CO)),
    (r"overcast|风桥", ("v > 10 speed 136",)),
    (r"trolley|架线", ("v < 1.0 speed 136", "v > 8 speed 136")),
)


def verdict(prompt: str) -> tuple[str, set[str]]:
    """The action a reading calls for, and the articles that speak of this quantity at this place."""
    text = prompt.replace("air speed", "v").replace("风速", "v")
    quantity, value = re.search(r"[:：] ?(CH4|CO2|CO|O2|v) ([\d.]+)", text).groups()  # type: ignore[union-attr]
    rules = next(rules for words, rules in RULES if re.search(words, text, re.IGNORECASE))
    mine = [rule.split() for rule in rules if rule.startswith(f"{quantity} ")]
    beaten = {">": Decimal.__gt__, ">=": Decimal.__ge__, "<": Decimal.__lt__}
    action = next((a for _, sign, limit, a, _ in mine if beaten[sign](Decimal(value), Decimal(limit))), "none")
    return action.replace("_", " "), {rule[-1] for rule in mine}


def test_gas_alarms_are_what_the_regulations_table_says():
    rows = pairs("gas_alarm")
    assert len(rows) == 1200
    for prompt, said in rows:
        action, articles = verdict(prompt)
        finding, told, basis = (
            said.get(en) or said[zh] for en, zh in (("Finding", "结论"), ("Action", "措施"), ("Basis", "依据"))
        )
        assert told.startswith(ACTIONS[action]), (prompt, told)
        assert finding in (("out of limits", "超限") if action != "none" else ("within limits", "合格")), prompt
        assert {re.sub(r"\D", "", basis)} == articles, prompt


@pytest.mark.parametrize(
    ("prompt", "action"),
    [
        ("Coal face 301: CH4 1 %", "drill"),  # 达到1.0%: reached is enough
        ("Coal face 301: CH4 1.5 %", "cut"),
        ("Return airway of coal face 301: CH4 1 %", "none"),  # 超过1.0%: it is not above
        ("Return airway of coal face 301: CH4 1.01 %", "withdraw"),
        ("4水平总回风巷：CO2 0.76%", "cause"),
        ("301采煤工作面进风流：O2 20%", "none"),  # 不低于20%
        ("301采煤工作面进风流：O2 19.9%", "air"),
        ("301岩巷掘进工作面：风速 0.2m/s", "none"),
        ("301煤巷掘进工作面：风速 0.2m/s", "speed"),
    ],
)
def test_the_judge_of_gas_by_hand(prompt, action):
    assert verdict(prompt)[0] == action


def test_conveyor_records_are_what_their_words_say():
    words = {
        "smoke": "smoke|冒烟|烟雾", "splice_damage": "splice|joint|接头", "tear": r"tear|\bripped|撕裂|撕开",
        "slip": "slip|turns faster|打滑|转得比", "seized_idler": "idler|roller|托辊", "hot_bearing": "bearing|轴承",
        "blocked_chute": "chute|pile-up|溜槽|堆煤", "gearbox_leak": "gearbox|reducer|减速",
        "worn_scraper": "scraper|cleaner|清扫", "misalignment": "running off|tracking|belt edge|跑偏|带边",
    }  # fmt: skip
    done = {
        "inspect": "fitter|钳工",
        "replace": "changed|换件",
        "adjust": "adjusted|调整",
        "clean": "cleared|清理",
        "none": "nothing|还没",
    }
    keeps = jsonschema.Draft202012Validator(
        load_template(FOLDER / "conveyor_fault.yaml").metrics[""].json_schema
    ).is_valid
    for sample in samples("conveyor_fault"):
        text, said = asked(sample), json.loads(sample.answer)
        assert keeps(said), text
        at = re.search(r"(\d+) m from|机头(\d+)米", text)
        assert said["fault"] == next(
            name for name, pattern in words.items() if re.search(pattern, text, re.IGNORECASE)
        ), text
        assert [name for name, pattern in done.items() if re.search(pattern, text, re.IGNORECASE)] == [
            said["action"]
        ], text
        assert said["conveyor"] == re.search(r"(?<![A-Z])[A-Z]{1,2}\d{3}", text)[0]  # type: ignore[index]
        assert said["at_m"] == (int(at[1] or at[2]) if at else None), text
        assert said["stopped"] == bool(re.search("stopped|已停机", text)), text


def solved(record: dict) -> float:
    """Balances as linear equations: yields (%) of clean coal, middlings, refuse add up, and so does what ash they carry."""
    given = {name: value for name, value in record.items() if isinstance(value, float)}
    if record["kind"] == "tonnes":
        return given["feed_t"] / 100 * given["clean_yield"]
    if record["kind"] == "efficiency":
        return given["clean_yield"] / given["theoretical_yield"] * 100
    if "density_25" in given:  # the partition curve as a line: 25 of 100 is what its slope climbs in one probable error
        slope = np.polyfit([given["density_25"], given["density_75"]], [25, 75], 1)[0]
        return float(25 / slope / (given.get("cut_density", 2.0) - 1))
    ash = [given.get(f"{name}_ash", 0.0) for name in ("clean", "middlings", "refuse")]
    unit = np.eye(3)
    if record["kind"] == "feed_ash":
        yields = np.linalg.solve([[1, 1, 1], unit[0], unit[2]], [100, given["clean_yield"], given["refuse_yield"]])
        return float(np.dot(ash, yields) / 100)
    third = (unit[1], 0.0) if record["kind"] == "two_products" else (unit[2], given["refuse_yield"])
    return float(np.linalg.solve([[1, 1, 1], ash, third[0]], [100, 100 * given["feed_ash"], third[1]])[0])


def value_of(sum_: str) -> Fraction:
    """A sum of numbers, + - * / and parentheses, worked in fractions."""
    assert re.fullmatch(r"[\d.+\-*/() ]+", sum_), sum_
    return eval(re.sub(r"[\d.]+", lambda number: f"Fraction('{number[0]}')", sum_), {"Fraction": Fraction})


def test_ash_balances_solve_their_equations_and_every_step_is_right():
    rows = samples("washing")
    for sample in rows:
        record = sample.record
        assert record["answer"] == pytest.approx(solved(record), rel=1e-9), record["figures"]
        *steps, last = sample.answer.splitlines()
        for step in steps:
            left, right = step.split(" = ")
            assert value_of(left) == Fraction(right), step
        final = Fraction(steps[-1].split(" = ")[1])
        assert Fraction(re.search(r"[\d.]+", last)[0]) in (final, 100 * final)  # type: ignore[index]
        for name, value in record.items():  # nothing is worked with that the prompt does not say
            if isinstance(value, float) and name != "answer":
                assert f"{value:g}" in asked(sample), (name, asked(sample))
    assert len({sample.record["kind"] for sample in rows}) == 7


def test_a_balance_and_a_separation_by_hand():
    """Feed 22 %, clean 10 %, refuse 70 %: y x 10 + (100 - y) x 70 = 2200, so y = 4800 / 60 = 80. Densities 1.55 and 1.67 are 0.12
    apart: probable error 0.06, over 1.6 - 1 an imperfection of 0.1."""
    assert solved({"kind": "two_products", "feed_ash": 22.0, "clean_ash": 10.0, "refuse_ash": 70.0}) == pytest.approx(
        80
    )


def first_number(pattern: str, text: str) -> Decimal:
    found = re.search(pattern, text)
    return Decimal(found[1]) if found else Decimal(0)


def test_accident_reports_have_the_grade_of_article_3():
    """特别重大: 30 dead, 100 seriously hurt or 100 million yuan and above; 重大: 10, 50, 50 million; 较大: 3, 10, 10 million."""
    names = (("especially serious", "特别重大"), ("serious", "重大"), ("fairly serious", "较大"), ("ordinary", "一般"))
    up_to = (("State Council", "国务院"), ("State Council", "国务院"), ("province", "省"), ("city", "市"))
    found = set()
    for prompt, said in pairs("incident_report"):
        dead = first_number(r"(\d+) dead", prompt) + first_number(r"死亡(\d+)", prompt)
        hurt = first_number(r"(\d+) seriously", prompt) + first_number(r"重伤(\d+)", prompt)
        million = first_number(r"([\d.]+) million", prompt) + first_number(r"([\d.]+)万元", prompt) / 100
        million += first_number(r"([\d.]+)亿元", prompt) * 100
        bars = ((30, 100, 100), (10, 50, 50), (3, 10, 10))
        at = next(
            (n for n, bar in enumerate(bars) if any(x >= y for x, y in zip((dead, hurt, million), bar, strict=True))), 3
        )
        assert (said.get("Grade") or said["等级"]) in names[at], prompt
        assert (said.get("Up to") or said["报至"]) in up_to[at], prompt
        assert [Decimal(said.get(en) or said[zh]) for en, zh in (("Deaths", "死亡"), ("Serious injuries", "重伤"))] == [
            dead,
            hurt,
        ]
        loss = said.get("Loss") or said["损失"]
        assert Decimal(re.sub(r"[^\d.]", "", loss)) / (1 if "million" in loss else 100) == million
        assert all(
            said[name] in prompt
            for name in ("Mine", "Time", "Place", "单位", "时间", "地点", "Measures", "措施")
            if name in said
        )
        found.add(at)
    assert found == {0, 1, 2, 3}


def test_support_of_a_shift_adds_up():
    for prompt, said in pairs("tunnelling"):
        numbers = [Decimal(number) for number in re.findall(r"[\d.]*\d", re.sub(r"Heading \d+|^\d+掘进", "", prompt))]
        start, end, spacing, bolts, done = numbers
        advance, rows, due, missing = map(Decimal, said.values())
        assert (advance, rows * spacing, due) == (end - start, end - start, rows * bolts), prompt
        assert missing == due - done >= 0, prompt
