"""The pharma pack's templates on the published files, where they lie beside the project; and numbers published with them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.evaluate.metrics import score
from finetune.recipe_data import SourceSection
from scripts.make import law
from scripts.make.pharma import adverse_events, pubmedqa, smiles_properties, solubility
from tests.conftest import ROOT
from tests.packs.reading import published
from tests.packs.smiles_reader import count

real = partial(published, "pharma")

FOLDER = ROOT / "data_templates/pharma"
pytestmark = pytest.mark.slow  # whole published sets


def rendered(task: str, file: Path, **source):
    return load_template(FOLDER / f"{task}.yaml").render_rows(read_source(SourceSection(path=str(file), **source)))


def test_chemprot_as_scibert_publishes_it():
    """All rows render. Micro-F1 of answers that each name a class is their accuracy: INHIBITOR throughout is right in 812
    of dev's 2,427, and 812 / 2427 = 0.33457."""
    train, dev = (rendered("chemprot", real(f"chemprot/{part}.txt"), kind="jsonl") for part in ("train", "dev"))
    assert (len(train.samples), len(dev.samples)) == (4169, 2427) and not [*train.problems, *dev.problems]
    metric = load_template(FOLDER / "chemprot.yaml").metric
    wanted = [one.answer for one in dev.samples]
    assert score(wanted, wanted, metric)["label_micro_f1"] == 1
    assert score(["INHIBITOR"] * 2427, wanted, metric)["label_micro_f1"] == pytest.approx(812 / 2427)


def test_aqsoldb_as_it_is_published():
    """9,982 molecules; as many of each class as the values say."""
    whole = rendered("solubility", real("aqsoldb/data_curated.csv"))
    assert len(whole.samples) == 9982 and not whole.problems and not whole.dropped
    assert Counter(one.answer for one in whole.samples) == {
        "highly soluble": 1058, "soluble": 2845, "slightly soluble": 3209, "insoluble": 2870,
    }  # fmt: skip
    metric = load_template(FOLDER / "solubility.yaml").metric
    answers = [one.answer for one in whole.samples]
    assert score(answers, answers, metric)["label_macro_f1"] == 1


def test_the_solubility_sample_is_esol():
    sample = (FOLDER / "solubility.sample.jsonl").read_text(encoding="utf-8").splitlines()
    assert [*solubility.read(real("esol/delaney.csv"))] == [json.loads(line) for line in sample]


def test_aqsoldb_agrees_with_most_classes_of_the_sample():
    """666 SMILES stand in both sets; for 27 of them, 4 in 100, AqSolDB's other measurements give another class."""
    published = rendered("solubility", real("aqsoldb/data_curated.csv")).samples
    classes = {one.record["SMILES"].strip(): one.answer for one in published}
    sample = rendered("solubility", FOLDER / "solubility.sample.jsonl").samples
    both = [(classes[one.record["SMILES"]], one.answer) for one in sample if one.record["SMILES"] in classes]
    assert (len(both), sum(there != here for there, here in both)) == (666, 27)


def test_counts_of_aqsoldb_by_the_second_reader_and_by_rdkit():
    """Heavy atoms are the same for all 9,982. Rings differ in cages, donors in ions; RDKit's of every 20th molecule differ from
    the published ones in acceptors only, 32 of 500."""
    with real("aqsoldb/data_curated.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    names = ("HeavyAtomCount", "RingCount", "NumHDonors")
    differ = [0, 0, 0]
    for row in rows:
        for at, (found, name) in enumerate(zip(count(row["SMILES"].strip()), names, strict=True)):
            differ[at] += found != float(row[name])
    assert differ == [0, 63, 61]
    drift = Counter(
        name
        for row in rows[::20]
        for name, value in smiles_properties.counted(row["SMILES"].strip()).items()
        if name != "SMILES" and value != float(row[name])
    )
    assert drift == {"NumHAcceptors": 32}
    whole = rendered("smiles_properties", real("aqsoldb/data_curated.csv"))
    assert len(whole.samples) == 9982 and not whole.problems


def test_the_law_articles_are_those_of_the_published_laws():
    shipped = law.shipped_articles(FOLDER / "drug_law_articles.jsonl")
    assert [*law.read_laws(real("laws"))] == shipped and len(shipped) == 294


def test_ade_corpus_sentences_become_rows_with_all_their_pairs(tmp_path):
    """The published file, PMID|sentence|effect|..|..|drug|..|.., and the hub's columns; made-up sentences."""
    old, hub = tmp_path / "DRUG-AE.rel", tmp_path / "ade.jsonl"
    sentence = "Rash and nausea after toraxine."
    old.write_text(f"1|{sentence}|Rash|0|4|toraxine|22|30\n1|{sentence}|nausea|9|15|toraxine|22|30\n", encoding="utf-8")
    hub.write_text(
        "".join(json.dumps({"text": sentence, "drug": "toraxine", "effect": it}) + "\n" for it in ("Rash", "nausea")),
        encoding="utf-8",
    )
    pairs = [{"drug": "toraxine", "effect": "Rash"}, {"drug": "toraxine", "effect": "nausea"}]
    row = {"language": "en", "narrative": sentence, "drug": "toraxine", "pairs": pairs, "report": None}
    assert [*adverse_events.read(old)] == [*adverse_events.read(hub)] == [row]


def test_pubmedqa_human_performance_is_as_published():
    """Table 5 of arXiv 1909.06146, 500 test questions: one annotator without and with the need to reason."""
    rows = json.loads(real("pubmedqa/ori_pqal.json").read_text(encoding="utf-8"))
    truth = json.loads(real("pubmedqa/test_ground_truth.json").read_text(encoding="utf-8"))
    metric = load_template(FOLDER / "pubmedqa.yaml").metric
    assert len(truth) == 500
    for answers, accuracy, macro_f1 in (
        ([rows[pmid]["reasoning_free_pred"] for pmid in truth], 90.4, 84.2),
        ([rows[pmid]["reasoning_required_pred"] for pmid in truth], 78.0, 72.2),
        (["yes"] * 500, 55.2, 23.7),
    ):
        found = score(answers, list(truth.values()), metric)
        assert round(100 * found["label_right"], 1) == accuracy
        assert round(100 * found["label_macro_f1"], 1) == macro_f1
    assert len([*pubmedqa.read(real("pubmedqa/ori_pqal.json"))]) == 1000
