"""Sums of a grid worked again with complex numbers and pint out of their questions; switching steps run on a model bay."""

from __future__ import annotations

import cmath
import math
import re
from functools import partial

import pint
import pytest

from scripts.make.power.switching_order import refusal, steps
from tests.packs.reading import shipped

rows = partial(shipped, "power")

UNITS = pint.UnitRegistry(cache_folder=None)
KEYWORDS = {  # kind: what its question has and no other
    "loss_rate": r"kWh.*(?:loss|线损)",
    "power_factor": r"kvarh",
    "current": r" kV.*(?:[Cc]urrent|电流)",
    "load_rate": r"kVA",
    "voltage_deviation": r"[Dd]eviation|偏差",
    "unbalance": r"nbalance|不平衡",
    "compensation": r"kvar(?!h)",
}


def figure(question: str, pattern: str) -> float:
    """The number at `#` in the pattern."""
    return float(re.search(pattern.replace("#", r"(\d+(?:\.\d+)?)"), question)[1])


def apparent(power: float, factor: float) -> complex:
    """Complex power of a lagging load, from its real part and power factor."""
    return cmath.rect(power / factor, math.acos(factor))


def worked(kind: str, question: str) -> list[float]:
    """Values of the steps and the result, in the units of the answer."""
    if kind == "loss_rate":
        supplied, sold = (float(text) * UNITS.kWh for text in re.findall(r"(\d+) kWh", question))
        lost = (supplied - sold).to("kWh")
        return [lost.magnitude, (lost / supplied).to("percent").magnitude]
    if kind == "power_factor":
        energy = complex(figure(question, "# kWh"), figure(question, "# kvarh"))
        return [abs(energy), math.cos(cmath.phase(energy))]
    if kind == "current":  # of one phase, whose voltage to neutral is U / √3
        power = apparent(figure(question, "# kW"), figure(question, "(?:factor |功率因数)#"))
        phase = figure(question, "# kV") * UNITS.kV / math.sqrt(3)
        return [abs(power), (abs(power) / 3 * UNITS.kVA / phase).to("A").magnitude]
    if kind == "load_rate":
        power = abs(apparent(figure(question, "# kW"), figure(question, "(?:factor |功率因数)#")))
        return [power, (power * UNITS.kVA / (figure(question, "# kVA") * UNITS.kVA)).to("percent").magnitude]
    if kind == "voltage_deviation":
        nominal = figure(question, "(?:nominal |nominal is |标称|标称电压)#")
        measured = figure(question, "(?:measured |实测|实测电压)#" if " were measured" not in question else "# V were")
        return [measured - nominal, 100 * (measured / nominal - 1)]
    if kind == "unbalance":
        least, _, most = sorted(float(text) for text in re.findall(r"(\d+) A", question))
        return [most - least, 100 * (1 - least / most)]
    power = figure(question, "# kW")
    before = apparent(power, figure(question, "(?:factor |功率因数由?)#"))
    after = apparent(power, figure(question, "(?:for |to |提高到|提到)#"))
    return [before.imag / power, after.imag / power, before.imag - after.imag]


def test_every_sum_is_worked_again_out_of_its_question():
    counted = dict.fromkeys(KEYWORDS, 0)
    for row in rows("grid_sums"):
        lines = [*row["working"], row["result"]]
        values = [line.partition(": ")[2].split(" ")[0] for line in lines]
        for text, value in zip(values, worked(row["kind"], row["question"]), strict=True):
            digits = len(text.partition(".")[2])
            assert float(text) == float(f"{value:.{digits}f}"), (row["question"], lines, value)
        counted[row["kind"]] += 1
    assert min(counted.values()) >= 120 and sum(counted.values()) == 1200


def test_kinds_are_known_by_their_questions():
    for row in rows("grid_sums"):
        assert re.search(KEYWORDS[row["kind"]], row["question"]), row["question"]


@pytest.mark.parametrize(
    ("kind", "question", "values"),
    [
        ("loss_rate", "5000 kWh supplied, 4750 kWh sold.", [250, 5]),  # 250 / 5000
        ("power_factor", "4000 kWh active, 3000 kvarh", [5000, 0.8]),  # 3, 4, 5
        ("load_rate", "500 kVA, load 360 kW, power factor 0.9.", [400, 80]),  # 360 / 0.9
        ("compensation", "300 kW at power factor 0.6. Capacitors for 0.8,", [4 / 3, 3 / 4, 175]),  # 300 (4/3 - 3/4)
    ],
)
def test_the_second_reckoning_by_hand(kind, question, values):
    assert worked(kind, question) == pytest.approx(values)


# Per state: breaker closed, isolators closed, earthed.
DEVICES = {"运行": (True, True, False), "热备用": (False, True, False), "冷备用": (False, False, False),
           "检修": (False, False, True)}  # fmt: skip


class Bay:
    """A breaker, isolators on source and line side, an earthing switch; it stops at what interlocks would stop."""

    def __init__(self, number: str, state: str, far: str) -> None:
        self.number, self.far = number, far
        self.breaker, self.source, self.earth = DEVICES[state]
        self.line = self.source
        self.breaker_seen_open = self.isolators_seen_open = self.dead = False

    def do(self, step: str) -> None:
        b, far_isolated, far_earthed = self.number, not DEVICES[self.far][1], DEVICES[self.far][2]
        if step == f"断开{b}开关":
            assert self.breaker
            self.breaker = False
        elif step == f"合上{b}开关":
            assert self.source and self.line and not self.earth and not far_earthed
            self.breaker, self.breaker_seen_open = True, False
        elif step == f"拉开{b}3线路侧刀闸":
            assert self.breaker_seen_open and self.line and self.source
            self.line = False
        elif step == f"拉开{b}1母线侧刀闸":
            assert self.breaker_seen_open and self.source and not self.line
            self.source = False
        elif step == f"合上{b}1母线侧刀闸":
            assert self.breaker_seen_open and not self.source and not self.line and not self.earth
            self.source = True
        elif step == f"合上{b}3线路侧刀闸":
            assert self.breaker_seen_open and self.source and not self.earth and not far_earthed
            self.line = True
        elif step == f"合上{b}40接地刀闸":
            assert self.isolators_seen_open and self.dead and not self.line
            self.earth = True
        elif step == f"拉开{b}40接地刀闸":
            assert self.earth
            self.earth = False
        else:
            self.look(step, b, far_isolated)

    def look(self, step: str, b: str, far_isolated: bool) -> None:
        if step == f"检查{b}开关已断开":
            assert not self.breaker
            self.breaker_seen_open = True
        elif step == f"检查{b}开关已合上":
            assert self.breaker
        elif step == f"检查{b}1、{b}3刀闸已拉开":
            assert not self.source and not self.line
            self.isolators_seen_open = True
        elif step == f"检查{b}40接地刀闸已拉开":
            assert not self.earth
        else:
            assert step == f"在{b}线路侧验电，确无电压" and far_isolated and not self.line
            self.dead = True


def test_every_ticket_runs_on_a_bay_with_interlocks_and_ends_where_it_should():
    refused = 0
    for row in rows("switching_order"):
        start, end = re.search("由(运行|热备用|冷备用|检修)转为?(运行|热备用|冷备用|检修)", row["task"]).groups()
        _, isolators, earthed = DEVICES[end]
        _, far_isolators, far_earthed = DEVICES[row["far_end"]]
        forbidden = row["actual"] != start or (earthed and far_isolators) or (isolators and far_earthed)
        assert (row["refusal"] is not None) == forbidden, row
        refused += forbidden
        if not forbidden:
            bay = Bay(row["breaker"], start, row["far_end"])
            for step in row["steps"]:
                bay.do(step)
            assert (bay.breaker, bay.source, bay.earth) == DEVICES[end] and bay.line == bay.source
    assert 150 <= refused <= 300


def test_interlocks_stop_a_wrong_order():
    """The isolators first, under load; the source side before the load side; earthing without looking for voltage."""
    right = steps("913", "运行", "检修")
    assert len(right) == 7
    for wrong in (right[2:], [*right[:2], right[3], right[2]], right[:5] + right[6:]):
        bay = Bay("913", "运行", "冷备用")
        with pytest.raises(AssertionError):
            for step in wrong:
                bay.do(step)


def test_reasons_to_refuse():
    assert refusal("913", "热备用", "运行", "冷备用", "冷备用") == "913现为热备用，与指令不符"
    assert refusal("913", "冷备用", "冷备用", "检修", "运行") == "对侧为运行，不得合接地刀闸"
    assert refusal("913", "冷备用", "冷备用", "热备用", "检修") == "对侧为检修，不得送电"
    assert refusal("913", "冷备用", "冷备用", "检修", "检修") is None
