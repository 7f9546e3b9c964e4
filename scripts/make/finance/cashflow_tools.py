"""Questions of cash flows to be answered by calling functions.

The cases are those of cashflow.py, whose figures numpy-financial and this project both work out. A third of the net
present values lose their discount rate: there the right answer is to ask for it, not to call.
"""

from __future__ import annotations

from collections import Counter

from scripts.make.finance import cashflow

ROWS, SEED = 560, 41  # of cases; half of the IRR's are left out
KEPT = ("initial_outlay", "cash_flows", "profile")
ASKED = {  # in two wordings each
    "en": {
        "npv": ("Discount rate {rate}%. NPV?", "What is its net present value at {rate}%?"),
        "irr": ("IRR?", "What is its internal rate of return?"),
        "no_rate": ("NPV?", "What is its net present value?"),
    },
    "zh": {
        "npv": ("按{rate}%折现，求净现值。", "折现率为{rate}%，净现值是多少？"),
        "irr": ("求IRR。", "内部收益率是多少？"),
        "no_rate": ("求净现值。", "净现值是多少？"),
    },
}


def question(case: dict, asked: str) -> str:
    """The case in words, in one of two forms, and what is asked."""
    flows, outlay, years = case["cash_flows"], case["initial_outlay"], len(case["cash_flows"])
    money, english = f"{case['scale']} {case['currency']}", case["language"] == "en"
    if english and case["phrasing"] < 2:
        listed = ", ".join(map(str, flows))
        told = f"{case['project']} costs {outlay} {money} now and returns {listed} at the ends of years 1 to {years}."
    elif english:
        told = f"{case['project']}, in {money}: year 0: -{outlay}"
        told += "".join(f", year {year}: {flow}" for year, flow in enumerate(flows, 1)) + "."
    elif case["phrasing"] < 2:
        listed = "、".join(map(str, flows))
        told = f"{case['project']}项目现在投资{outlay}，第1至{years}年年末依次收回{listed}（单位：{money}）。"
    else:
        told = f"{case['project']}各年现金流（{money}）：第0年-{outlay}"
        told += "".join(f"，第{year}年{flow}" for year, flow in enumerate(flows, 1)) + "。"
    wanted = ASKED[case["language"]][asked][case["phrasing"] % 2].format(rate=f"{case['discount_rate_pct'] or 0:g}")
    return told + (" " if english else "") + wanted


def make(rows: int, seed: int) -> list[dict]:
    """One row a case: what is asked (`npv`, `irr`, or `no_rate`), the figures, and what the function gives back."""
    made = []
    asked_for: Counter[str] = Counter()
    for case in cashflow.make(rows, seed):
        asked = case["task"]
        asked_for[asked + case["language"]] += 1
        if asked == "npv" and asked_for[asked + case["language"]] % 3 == 0:
            asked = "no_rate"
        made.append(
            {"case_id": f"CT-{len(made) + 1:04}", "asked": asked, "language": case["language"]}
            | {"question": question(case, asked)}
            | {key: case[key] for key in KEPT}
            | {"discount_rate_pct": case["discount_rate_pct"] if asked == "npv" else None}
            | {"result": None if asked == "no_rate" else case["answer"]}
        )
    return made
