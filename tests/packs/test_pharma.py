"""The pharma pack's sample rows against judges of their own: each reads the prompt, not the columns it was made of."""

from __future__ import annotations

import json
import re
from functools import partial

import pint
import pytest

from finetune.data.template import load_template
from finetune.evaluate.metrics import aggregate, score_rows
from tests.conftest import ROOT
from tests.packs.reading import rendered
from tests.packs.smiles_reader import count

samples = partial(rendered, "pharma")

FOLDER = ROOT / "data_templates/pharma"
TASKS = (
    "chemprot",
    "solubility",
    "smiles_properties",
    "adverse_events",
    "dose_arithmetic",
    "pubmedqa",
    "drug_law_questions",
)


def asked(sample) -> str:
    return str(sample.prompt[-1]["content"])


@pytest.mark.parametrize("task", TASKS)
def test_the_right_answer_scores_one(task):
    """Whatever is scored, of rows and of the corpus: every fourth sample."""
    template = load_template(FOLDER / f"{task}.yaml")
    found = samples(task)[::4]
    answers = [one.answer for one in found]
    scores = aggregate(score_rows(answers, answers, [template.metrics[one.task] for one in found]))
    assert len(found) > 120 and set(scores.values()) == {1.0}


# The first rule whose words are in the clause gives the label; N is a name in marks.
AMOUNT = "(expression|transcription|secretion|release|levels?|mRNA|rise of)"
CUES = (
    ("AGONIST-INHIBITOR", r"inverse agonist|agonist that inhibits"),
    ("AGONIST-ACTIVATOR", r"agonist that activates|activating agonist|activated by the agonist"),
    ("SUBSTRATE_PRODUCT-OF", r"both a substrate and a product|breaks it down|reversible reaction"),
    ("DOWNREGULATOR", r"[Dd]ownregulat"),
    ("UPREGULATOR", r"[Uu]pregulat"),
    ("ANTAGONIST", r"[Aa]ntagonis"),
    ("AGONIST", r"agonist"),
    ("INDIRECT-UPREGULATOR", rf"(increased|induced|enhanced|restored|stimulated|raised) .*{AMOUNT}|{AMOUNT} .*"
     r"(rose|raised|induced|increased)|accumulation of"),
    ("INDIRECT-DOWNREGULATOR", rf"(decreased|reduced|suppressed|attenuated|prevented) .*{AMOUNT}|{AMOUNT} .*"
     r"(fell|lowered|reduced|decreased)"),
    ("PRODUCT-OF", r"formation|produced|synthesis|generates|production|the product|[Bb]iosynthesis"),
    ("SUBSTRATE", r"metabolised|hydroxylation|substrate|uptake|hydrolysed|oxidation|clearance|transported|[Gg]lucuronidation"),
    ("INHIBITOR", r"[Ii]nhibit|blocked|suppressed the catalytic|abolished its|lost \d+ % of its"),
    ("ACTIVATOR", r"[Aa]ctivat|stimulated|triggered|enhanced the catalytic"),
)  # fmt: skip
JOINS = re.compile(r", whereas |, while |; in addition, |; by contrast, |, and (?=[^<\[]*(?:<<|\[\[|[A-Za-z0-9-]+ ))")


def test_chemprot_labels_are_those_of_the_words_in_the_marked_clause():
    for one in samples("chemprot"):
        text = asked(one)
        assert re.sub(r"[^<>\[\]]|< 0", "", text) == "<<>>[[]]"
        clause = next(part for part in JOINS.split(text) if "<<" in part or "[[" in part)
        label = next(label for label, words in CUES if re.search(words, clause))
        assert label == one.answer, text


def test_solubility_classes_by_the_measured_value():
    """0 and more is highly soluble, -2 soluble, -4 slightly soluble: as many cuts as the value does not reach."""
    classes = ("highly soluble", "soluble", "slightly soluble", "insoluble")
    found = samples("solubility")
    for one in found:
        assert one.answer == classes[sum(one.record["Solubility"] < cut for cut in (0, -2, -4))]
    assert len(found) == 1117


def test_counts_of_a_second_reader_of_smiles():
    """It counts rings by Euler's formula; RDKit gives a cage one more where two sets of smallest rings are equal."""
    cages = 0
    for one in samples("smiles_properties"):
        given = dict(line.split(": ") for line in one.answer.splitlines())
        atoms, rings, donors = count(asked(one))
        assert (atoms, donors) == (int(given["heavy atoms"]), int(given["H donors"])), asked(one)
        cages += rings != int(given["rings"])
    assert cages == 3  # two chlorinated cages and 1,8-cineole


def test_counts_by_hand():
    """Salicylic acid, C7H6O3: 10 heavy atoms, one ring, OH twice. Norbornane, C7H12: two rings. Methylammonium: N has H."""
    assert count("OC(=O)c1ccccc1O") == (10, 1, 2)
    assert count("C1CC2CCC1C2") == (7, 2, 0)
    assert count("C[NH3+].[Cl-]") == (3, 0, 1)


CRITERIA = (
    ("death", r"The patient died|天后死亡"),
    ("life-threatening", r"life-threatening|危及生命"),
    ("hospitalisation", r"was admitted to hospital|stay was prolonged|因此住院|因此延长"),
    ("disability", r"lasting disability|永久性残疾"),
)
OUTCOMES = (
    ("fatal", "fatal|转归：死亡"),
    ("not recovered", "had not recovered|未好转"),
    ("recovering", "recovering|好转"),
    ("recovered", "recovered|痊愈"),
    ("unknown", "outcome is unknown|转归不详"),
)


def test_adverse_event_reports_say_what_the_narrative_says():
    for one in samples("adverse_events"):
        text = asked(one)
        if one.task == "report":
            report = json.loads(one.answer)
            criterion = next((name for name, words in CRITERIA if re.search(words, text)), None)
            assert (report["criterion"], report["serious"]) == (criterion, criterion is not None), text
            assert report["outcome"] == next(name for name, words in OUTCOMES if re.search(words, text))
            assert report["onset_days"] == onset(text), text
            assert report["drug"] in text and report["reactions"] == effects(text)
        else:
            earlier = re.search(r"before, (\S+) had caused ([^.]+)\.|年前使用(\S+?)曾引起([^。]+)。", text)
            lines = [] if one.answer == "none" else one.answer.splitlines()
            assert [line.split(" -> ")[1] for line in lines][: len(effects(text))] == effects(text), text
            assert len(lines) == len(effects(text)) + bool(earlier)
            if earlier:
                drug, effect = [part for part in earlier.groups() if part]
                assert lines[-1] == f"causes: {drug} -> {effect}"


def effects(text: str) -> list[str]:
    found = re.search(r"(?:dose|treatment|Then|;) ?([a-z ]+) occurred|出现([^，。]+)", text)
    return re.split(" and |、", (found[1] or found[2]).strip()) if found else []


def onset(text: str) -> int | None:
    if found := re.search(r"on (\d+) \w+; .* on (\d+) |月(\d+)日开始.*月(\d+)日", text):
        first, then = [int(part) for part in found.groups() if part]
        return then - first
    if found := re.search(r"After (\d+) weeks|用药(\d+)周", text):
        return 7 * int(found[1] or found[2])
    if found := re.search(r"(\d+) days after the first|首次用药(\d+)天", text):
        return int(found[1] or found[2])
    return 0 if re.search("day of the first|当天", text) else None


def test_doses_by_pint():
    """Every answer out of the quantities with their units, none of the steps; IU and drops are dimensions of their own."""
    units = pint.UnitRegistry()
    for definition in ("IU = [activity]", "drop = [drop]"):
        units.define(definition)
    for one in samples("dose_arithmetic"):
        r = one.record
        value = computed(r, units.Quantity)
        unit = r["unit"].replace("drops", "drop").replace("/h", "/hour")
        number, said = re.fullmatch(r"(?:answer|答案): (\S+) (\S+)", one.answer.splitlines()[-1]).groups()
        assert value.to(unit).magnitude == pytest.approx(float(number), rel=1e-9), r
        assert said.replace("滴/分钟", "drops/min") == r["unit"]


def computed(row: dict, q: type):
    """The answer of a case as a quantity of pint's."""
    kg, ml, mg = (
        q(row.get("weight_kg") or 0, "kg"),
        q(row.get("volume_ml") or 0, "mL"),
        q(row.get("dose_mg") or 0, "mg"),
    )
    match row["kind"]:
        case "weight_dose":
            return min(kg * q(row["mg_per_kg"], "mg/kg"), q(row["most_mg"], "mg"))
        case "divided_dose":
            return kg * q(row["mg_per_kg"], "mg/kg") / row["doses_a_day"]
        case "volume":
            return mg / q(row["mg_per_ml"], "mg/mL")
        case "pump_rate":
            return q(row["ug_per_kg_min"], "µg/kg/min") * kg / (mg / ml)
        case "drop_rate":
            return ml * q(row["drops_per_ml"], "drop/mL") / q(row["hours"], "hour")
        case "dilution":
            return ml * q(row["wanted_pct"], "percent") / q(row["stock_pct"], "percent")
    per_iu = row.get("ug_per_iu")
    return q(row["amount"], row["from_unit"]) * (1 if per_iu is None else q(per_iu, "µg/IU"))


def test_every_step_of_a_dose_is_right():
    for one in samples("dose_arithmetic"):
        for step in one.answer.splitlines()[0].split("; "):
            left, sign, right, *result = re.sub(" = ", " ", step).split()
            worked = {"×": lambda a, b: a * b, "÷": lambda a, b: a / b, ">": lambda a, b: a > b}[sign](
                float(left), float(right)
            )
            assert worked == pytest.approx(float(result[0])) if result else worked, step


def test_decisions_on_abstracts_by_their_numbers():
    """Stopped under half: maybe. A subgroup only: maybe. Else yes where the drug did better and P < 0.05, else no."""
    for one in samples("pubmedqa"):
        text = asked(one)
        drug, outcome = re.search(r"Does (\S+) (?:lower|raise|reduce|increase|improve) (.+?) more than", text).groups()
        with_drug, with_control, p = re.search(
            rf"{re.escape(outcome)} (?:fell|rose) by ([\d.]+) \S+ with {drug} and by ([\d.]+) [^(]*\(P = ([\d.]+)\)",
            text, re.IGNORECASE,
        ).groups()  # fmt: skip
        stopped, subgroup = re.search("stopped after (\\d+) of (\\d+) patients", text), "difference was clear" in text
        if stopped:
            assert int(stopped[1]) < int(stopped[2]) / 2
        better = float(with_drug) > float(with_control) and float(p) < 0.05
        decision = "maybe" if stopped or subgroup else "yes" if better else "no"
        assert one.record["final_decision"] == decision, text
        if one.task == "evidence":
            words = "stopped after" if stopped else "difference was clear" if subgroup else f"(P = {p})"
            assert words in one.answer and one.answer in text


def test_law_answers_stand_in_the_articles_shown():
    articles = {}
    for line in (FOLDER / "drug_law_articles.jsonl").read_text(encoding="utf-8").splitlines():
        article = json.loads(line)
        articles[article["id"]] = article["text"]
    assert len(articles) == 294
    for one in samples("drug_law_questions"):
        row = one.record
        shown = [passage["id"] for passage in row["passages"]]
        assert all(articles[passage["id"]] == passage["text"] for passage in row["passages"])
        assert row["answer"] in articles[row["gold"]] and (row["gold"] in shown) == row["answerable"]
        assert [shown[number - 1] for number in row["cites"]] == [row["gold"]] * row["answerable"]
