"""Wordings of sums of a distribution grid; all made up here. A question tells the decimals wanted, and any rule not general."""

from __future__ import annotations

FEEDERS = {
    "en": ("Elm Street", "Harbour", "Mill Lane", "North Park", "Quarry", "Station Road", "Old Town", "Riverside"),
    "zh": ("南湖", "城东", "柳林", "石桥", "河西", "新港", "东山", "云溪"),
}
QUESTIONS = {
    "en": {
        "loss_rate": (
            "{name} feeder: {supplied} kWh supplied, {sold} kWh sold. Line loss rate, two decimals?",
            "Of {supplied} kWh fed into {name} feeder {sold} kWh were billed. What is the loss rate (two decimals)?",
        ),
        "power_factor": (
            "{name} meter, one month: {active} kWh active, {reactive} kvarh reactive. Average power factor, two decimals?",
            "Active energy {active} kWh, reactive {reactive} kvarh at {name}. What was the average power factor (two decimals)?",
        ),
        "current": (
            "Three-phase load at {name}: {power} kW at {volts} kV, power factor {factor}. Line current, one decimal?",
            "{name} draws {power} kW from {volts} kV, three-phase, power factor {factor}. Current in A, one decimal?",
        ),
        "load_rate": (
            "{name} transformer: {rating} kVA, load {power} kW, power factor {factor}. Load rate, one decimal?",
            "A {rating} kVA transformer at {name} carries {power} kW at power factor {factor}. Load rate, one decimal?",
        ),
        "voltage_deviation": (
            "{name}: nominal {nominal} V, measured {measured} V. Voltage deviation, two decimals?",
            "At {name} {measured} V were measured; nominal is {nominal} V. Deviation with its sign, two decimals?",
        ),
        "unbalance": (
            "{name} phase currents {a} A, {b} A, {c} A. Unbalance as (largest - smallest) / largest, one decimal?",
            "Phases of {name}: {a} A, {b} A, {c} A. By (max - min) / max, how unbalanced is it (one decimal)?",
        ),
        "compensation": (
            "{name}: {power} kW at power factor {before}. Capacitors for {after}, in whole kvar?",
            "How many kvar (whole) bring {power} kW at {name} from power factor {before} to {after}?",
        ),
    },
    "zh": {
        "loss_rate": (
            "{name}线供电量{supplied} kWh，售电量{sold} kWh，求线损率（两位小数）。",
            "{name}线输入{supplied} kWh，售出{sold} kWh，线损率是多少？保留两位小数。",
        ),
        "power_factor": (
            "{name}用户当月有功电量{active} kWh，无功电量{reactive} kvarh，求平均功率因数（两位小数）。",
            "{name}用户有功{active} kWh、无功{reactive} kvarh，月平均功率因数是多少？保留两位小数。",
        ),
        "current": (
            "{name}三相负荷{power} kW，电压{volts} kV，功率因数{factor}，求线电流（一位小数）。",
            "{name}三相{power} kW，{volts} kV，功率因数{factor}，电流多少安？保留一位小数。",
        ),
        "load_rate": (
            "{name}变压器容量{rating} kVA，负荷{power} kW，功率因数{factor}，求负载率（一位小数）。",
            "{name}台区{rating} kVA变压器带{power} kW，功率因数{factor}，负载率是多少？保留一位小数。",
        ),
        "voltage_deviation": (
            "{name}标称电压{nominal} V，实测{measured} V，求电压偏差（两位小数）。",
            "{name}实测电压{measured} V，标称{nominal} V，电压偏差是多少？带正负号，保留两位小数。",
        ),
        "unbalance": (
            "{name}三相电流{a} A、{b} A、{c} A，按（最大-最小）/最大求不平衡度（一位小数）。",
            "{name}台区三相电流{a} A、{b} A、{c} A，不平衡度按（最大-最小）/最大，是多少？保留一位小数。",
        ),
        "compensation": (
            "{name}负荷{power} kW，功率因数{before}，提高到{after}需补偿多少kvar（取整）？",
            "{name}有功{power} kW，功率因数由{before}提到{after}，求补偿容量（kvar，取整）。",
        ),
    },
}
NAMES = {
    "en": {
        "lost": "lost", "loss_rate": "loss rate", "apparent_energy": "apparent", "power_factor": "power factor",
        "apparent": "apparent power", "current": "current", "load_rate": "load rate", "difference": "difference",
        "deviation": "deviation", "span": "span", "unbalance": "unbalance", "tan_before": "tan φ1",
        "tan_after": "tan φ2", "capacitors": "capacitors",
    },
    "zh": {
        "lost": "损失电量", "loss_rate": "线损率", "apparent_energy": "视在电量", "power_factor": "功率因数",
        "apparent": "视在功率", "current": "电流", "load_rate": "负载率", "difference": "差值", "deviation": "电压偏差",
        "span": "极差", "unbalance": "不平衡度", "tan_before": "tanφ前", "tan_after": "tanφ后", "capacitors": "补偿容量",
    },
}  # fmt: skip
