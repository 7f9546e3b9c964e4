"""The mining pack on real data: MaintIE's gold release where it lies, and UCI's seismic shifts, which are shipped."""

from __future__ import annotations

import csv
import json
from collections import Counter

import pytest

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.evaluate.metrics import aggregate, score_rows
from finetune.recipe_data import SourceSection
from tests.conftest import ROOT

FOLDER = ROOT / "data_templates/mining"
REAL = ROOT.parent / "shared/data/mining"
pytestmark = pytest.mark.slow  # whole published sets
CLASSES = {"PhysicalObject", "Activity", "State", "Process", "Property"}
# What MaintIE's gold release relates to what, by top class.
RELATED = {
    "hasPatient": {("Activity", "PhysicalObject"), ("State", "PhysicalObject"), ("Process", "PhysicalObject"),
                   ("Activity", "Property"), ("State", "Activity"), ("Activity", "Activity"), ("Activity", "State")},
    "hasAgent": {("Process", "PhysicalObject"), ("State", "PhysicalObject"), ("Activity", "PhysicalObject")},
    "hasPart": {("PhysicalObject", "PhysicalObject")},
    "contains": {("PhysicalObject", "PhysicalObject")},
    "isA": {("PhysicalObject", "PhysicalObject"), ("State", "State"), ("Activity", "Activity")},
    "hasProperty": {("PhysicalObject", "Property")},
}  # fmt: skip


def rendered(task: str, path: str) -> list:
    template = load_template(FOLDER / f"{task}.yaml")
    return template.render_all(read_source(SourceSection(path=path)))


def lines_of(order: dict) -> dict[str, Counter]:
    """What an order's two answers must list, out of its spans; in any order."""

    def text(place: int) -> str:
        entity = order["entities"][place]
        return " ".join(order["tokens"][entity["start"] : entity["end"]])

    entities = [f"{entity['type'].partition('/')[0]}: {text(place)}" for place, entity in enumerate(order["entities"])]
    relations = [
        f"{each['type'].rpartition('/')[2]}: {text(each['head'])} > {text(each['tail'])}" for each in order["relations"]
    ]
    return {"entities": Counter(entities), "relations": Counter(relations)}


def check_orders(orders: list[dict], samples: list) -> None:
    """Every order has both answers, each lists its spans and nothing else, and scores 1 against itself."""
    metrics = load_template(FOLDER / "maintie.yaml").metrics
    assert len(samples) == 2 * len(orders)
    for order, *both in zip(orders, samples[::2], samples[1::2], strict=True):
        for sample in both:
            assert Counter(sample.answer.splitlines()) == lines_of(order)[sample.task], order["text"]
            assert str(sample.prompt[-1]["content"]) == f"{sample.task.capitalize()}: {' '.join(order['tokens'])}"
    answers = [sample.answer for sample in samples]
    scores = aggregate(score_rows(answers, answers, [metrics[sample.task] for sample in samples]))
    assert (
        scores["entity_micro_f1"]
        == scores["relation_micro_f1"]
        == scores["entity_exact"]
        == scores["relation_exact"]
        == 1
    )


def test_made_up_orders_are_of_the_published_form():
    """Spans are in the text, and relations join what MaintIE's join."""
    path = FOLDER / "maintie.sample.jsonl"
    orders = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for order in orders:
        tops = [entity["type"].partition("/")[0] for entity in order["entities"]]
        assert set(tops) <= CLASSES and " ".join(order["tokens"]) == order["text"]
        assert all(0 <= entity["start"] < entity["end"] <= len(order["tokens"]) for entity in order["entities"])
        for each in order["relations"]:
            assert (tops[each["head"]], tops[each["tail"]]) in RELATED[each["type"].rpartition("/")[2]], order["text"]
    check_orders(orders, rendered("maintie", str(path)))


def test_maintie_is_read_as_it_is_published():
    """1,076 orders, none dropped: 3,397 entities (1,994 objects, 784 activities, 438 states, 146 processes, 35 properties) and
    2,341 relations, as counted in the file itself."""
    path = REAL / "maintie/gold_release.json"
    if not path.exists():
        pytest.skip("MaintIE's gold release is not there")
    orders = json.loads(path.read_text(encoding="utf-8"))
    samples = rendered("maintie", str(path))
    check_orders(orders, samples)
    by_class = Counter(
        line.partition(": ")[0]
        for sample in samples
        if sample.task == "entities"
        for line in sample.answer.splitlines()
    )
    assert by_class == {"PhysicalObject": 1994, "Activity": 784, "State": 438, "Process": 146, "Property": 35}
    assert sum(len(sample.answer.splitlines()) for sample in samples if sample.task == "relations") == 2341
    made_up = {
        json.loads(line)["text"] for line in (FOLDER / "maintie.sample.jsonl").read_text(encoding="utf-8").splitlines()
    }
    assert not made_up & {order["text"] for order in orders}


def shifts(file: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / file).read_text(encoding="utf-8").splitlines()]


def test_the_seismic_files_hold_every_shift_once_and_the_rare_class_as_rare_as_it_is():
    """170 of 2,578 are hazardous: 119 of 1,805 and 51 of 773, both 6.6 %. Always "hazardous" has F1 2 x 51 / (773 + 51)."""
    train, held_out, hazardous = (
        shifts(file) for file in ("seismic_hazard.sample.jsonl", "seismic_held_out.jsonl", "seismic_positives.jsonl")
    )
    assert [(len(rows), sum(row["class"] for row in rows)) for rows in (train, held_out)] == [(1805, 119), (773, 51)]
    assert hazardous == [row for row in train if row["class"] == 1]
    assert len({json.dumps(row) for row in train + held_out}) == 2578
    samples = rendered("seismic_hazard", str(FOLDER / "seismic_held_out.jsonl"))
    metric = load_template(FOLDER / "seismic_hazard.yaml").metrics[""]
    wanted = [sample.answer for sample in samples]

    def scores(word: str) -> dict[str, float]:
        return aggregate(score_rows([word] * 773, wanted, [metric] * 773))

    assert scores("hazardous")["label_f1/hazardous"] == pytest.approx(2 * 51 / (773 + 51))
    assert (scores("quiet")["label_right"], scores("quiet")["label_f1/hazardous"]) == (pytest.approx(722 / 773), 0)


def test_the_seismic_files_are_the_published_rows():
    path = REAL / "seismic_bumps/seismic-bumps.csv"
    if not path.exists():
        pytest.skip("UCI's seismic-bumps CSV is not there")
    with path.open(encoding="utf-8", newline="") as file:
        published = Counter(tuple(row.values()) for row in csv.DictReader(file))
    shipped = [*shifts("seismic_hazard.sample.jsonl"), *shifts("seismic_held_out.jsonl")]
    assert Counter(tuple(str(value) for value in row.values()) for row in shipped) == published
    assert len(rendered("seismic_hazard", str(path))) == 2578  # the CSV itself, by the same template
