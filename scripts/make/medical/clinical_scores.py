"""Bedside sums: body mass index, eGFR, creatinine clearance, corrected calcium, anion gap, CHA2DS2-VASc.

Formulas: eGFR, CKD-EPI 2021 without race (Inker et al., N Engl J Med 2021;385:1737); creatinine clearance, Cockcroft and
Gault (Nephron 1976;16:31); calcium for albumin, Payne et al. (BMJ 1973;4:643) in the form in use; CHA2DS2-VASc, Lip et
al. (Chest 2010;137:263). Patients are made up. Exact where the formula is rational; no value lies at a rounding tie.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction

from scripts.make.cases import Row, distinct

ROWS, SEED = 1200, 17
UMOL_PER_MG_DL = Fraction(884, 10)  # of creatinine, the factor in use; 10 mg/L at 113.12 g/mol is 88.40
TIE = 1e-6  # in units of the last digit
RISKS = {"heart_failure": 1, "hypertension": 1, "diabetes": 1, "stroke": 2, "vascular_disease": 1}  # CHA2DS2-VASc
TWO_UNITS = ("egfr", "creatinine_clearance", "corrected_calcium")
EMPTY: Row = {
    key: None
    for key in ("sex", "age", "weight_kg", "height_cm", "creatinine", "calcium", "albumin", "sodium", "chloride",
                "bicarbonate", "history", "points")
}  # fmt: skip


def make(rows: int, seed: int) -> list[Row]:
    return distinct(clinical_scores, rows, seed)


def clinical_scores(rng: random.Random, language: str) -> Row:
    """Facts of one patient for one score; `units` of creatinine, calcium and albumin, which laboratories differ in."""
    score = rng.choice(list(SCORES))
    units = "SI" if language == "zh" or score not in TWO_UNITS else rng.choice(["SI", "conventional"])
    while True:
        facts, value, digits = SCORES[score](rng, units)
        scaled = float(value) * 10**digits
        if abs(scaled - math.floor(scaled) - 0.5) > TIE:
            break
    row = {"score": score, "units": units} | EMPTY | facts
    row["profile"] = ":".join(str(part) for part in (score, *facts.values()))  # the same patient in both languages
    return row | {"answer": round(float(value), digits)}


def body_mass_index(rng: random.Random, units: str) -> tuple[Row, Fraction, int]:
    weight, height = rng.randint(420, 1250), rng.randint(145, 195)
    return {"weight_kg": weight / 10, "height_cm": height}, Fraction(weight, 10) / Fraction(height, 100) ** 2, 1


def draw_creatinine(rng: random.Random, units: str) -> tuple[float, Fraction]:
    """As reported, and in mg/dL; half of the patients have kidneys that work well."""
    if units == "SI":
        reported = rng.choice([rng.randint(45, 110), rng.randint(45, 400)])
        return float(reported), reported / UMOL_PER_MG_DL
    reported = rng.choice([rng.randint(50, 125), rng.randint(50, 450)])
    return reported / 100, Fraction(reported, 100)


def egfr(rng: random.Random, units: str) -> tuple[Row, float, int]:
    reported, mg_dl = draw_creatinine(rng, units)
    sex, age = rng.choice(["female", "male"]), rng.randint(18, 90)
    kappa, alpha, factor = (0.7, -0.241, 1.012) if sex == "female" else (0.9, -0.302, 1.0)
    ratio = float(mg_dl) / kappa
    value = 142 * min(ratio, 1) ** alpha * max(ratio, 1) ** -1.2 * 0.9938**age * factor
    return {"sex": sex, "age": age, "creatinine": reported}, value, 0


def creatinine_clearance(rng: random.Random, units: str) -> tuple[Row, Fraction, int]:
    reported, mg_dl = draw_creatinine(rng, units)
    sex, age, weight = rng.choice(["female", "male"]), rng.randint(18, 90), rng.randint(42, 110)
    value = (140 - age) * weight / (72 * mg_dl) * (Fraction(85, 100) if sex == "female" else 1)
    return {"sex": sex, "age": age, "weight_kg": float(weight), "creatinine": reported}, value, 0


def corrected_calcium(rng: random.Random, units: str) -> tuple[Row, Fraction, int]:
    if units == "SI":  # mmol/L and g/L
        calcium, albumin = rng.randint(170, 320), rng.randint(18, 50)
        facts = {"calcium": calcium / 100, "albumin": float(albumin)}
        return facts, Fraction(calcium, 100) + Fraction(2, 100) * (40 - albumin), 2
    calcium, albumin = rng.randint(65, 130), rng.randint(18, 50)  # mg/dL and g/dL, in tenths
    facts = {"calcium": calcium / 10, "albumin": albumin / 10}
    return facts, Fraction(calcium, 10) + Fraction(8, 10) * (4 - Fraction(albumin, 10)), 1


def anion_gap(rng: random.Random, units: str) -> tuple[Row, Fraction, int]:
    gap, chloride, bicarbonate = rng.randint(3, 30), rng.randint(88, 115), rng.randint(8, 32)
    facts = {"sodium": chloride + bicarbonate + gap, "chloride": chloride, "bicarbonate": bicarbonate}
    return facts, Fraction(gap), 0


def cha2ds2_vasc(rng: random.Random, units: str) -> tuple[Row, Fraction, int]:
    sex, age = rng.choice(["female", "male"]), rng.randint(40, 92)
    history = [risk for risk in RISKS if rng.random() < 0.35]
    points = [RISKS[risk] for risk in history]
    if age >= 65:
        points.append(2 if age >= 75 else 1)
    if sex == "female":
        points.append(1)
    return {"sex": sex, "age": age, "history": history, "points": points}, Fraction(sum(points)), 0


SCORES: dict[str, Callable[[random.Random, str], tuple[Row, Fraction | float, int]]] = {
    "bmi": body_mass_index,
    "egfr": egfr,
    "creatinine_clearance": creatinine_clearance,
    "corrected_calcium": corrected_calcium,
    "anion_gap": anion_gap,
    "cha2ds2_vasc": cha2ds2_vasc,
}
