"""Scores of whole corpora: entities and relations by hand, labels and mentions as scikit-learn and seqeval count them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune.data.template import Metric
from finetune.evaluate.corpus import counts, family_of
from finetune.evaluate.metrics import aggregate, row_score_names, score, score_names, score_rows

ENTITIES = Metric(name="entities")
RELATIONS = Metric(name="relations")


def scores_of(answers, references, metric=ENTITIES):
    return score(answers, references, metric)


def test_entities_by_hand():
    """Of drug 2 found of 3, one too many: P = R = 2/3; dose: 0 of 1, none given; micro 2 right of 3 given and 4 wanted."""
    answers = ["drug: aspirin\ndrug: heparin", "drug: warfarin", "none"]
    references = ["drug: aspirin\ndose: 5 mg", "drug: warfarin\ndrug: insulin", "none"]
    got = scores_of(answers, references)
    assert got == pytest.approx({
        "entity_micro_f1": 2 * 2 / (3 + 4), "entity_macro_f1": (2 / 3 + 0) / 2, "entity_precision": 2 / 3,
        "entity_recall": 2 / 4, "entity_f1/dose": 0.0, "entity_f1/drug": 2 / 3, "entity_exact": 1 / 3,
        "entity_row_f1": (1 / 2 + 2 / 3 + 1) / 3,
    })  # fmt: skip
    assert next(iter(got)) == "entity_micro_f1"  # what gate.better_than_base looks at


def test_micro_f1_is_no_mean_over_rows():
    """A row with 9 right mentions counts nine times as much as one with a single wrong one: 9 of 10 and 10."""
    many = "\n".join(f"part: {n}" for n in range(9))
    got = scores_of([many, "part: x"], [many, "part: y"])
    assert got["entity_micro_f1"] == pytest.approx(0.9)
    assert got["entity_row_f1"] == 0.5


@pytest.mark.parametrize(
    ("answer", "reference", "tp", "fp", "fn"),
    [
        ("a: x\na: x", "a: x", 1, 1, 0),  # once more than it is there
        ("a: x", "a: x\na: x", 1, 0, 1),  # two mentions of one text are two
        ("b: x", "a: x", 0, 1, 1),  # another type
        ("a:  x  y ", "a: x y", 1, 0, 0),  # white space
        ("a: X", "a: x", 0, 1, 1),  # case counts
        ("", "a: x", 0, 0, 1),
        ("none", "none", 0, 0, 0),
        ("a: x", "none", 0, 1, 0),
        ("I see x", "a: x", 0, 1, 1),  # what can't be read is wrong
        ("a: ", "a: x", 0, 1, 1),
        ("a: x: y", "a: x: y", 1, 0, 0),  # the first separator counts
    ],
)
def test_what_counts(answer, reference, tp, fp, fn):
    row = score_rows([answer], [reference], [ENTITIES])[0]
    sums = {kind: sum(n for name, n in row.items() if name.endswith(f"/{kind}")) for kind in ("tp", "fp", "fn")}
    assert sums == {"tp": tp, "fp": fp, "fn": fn}
    assert row["entity_exact"] == float(fp == fn == 0)


def test_relations_by_hand():
    """Ends count in their order; 1 of 2 given is right and 1 of 2 wanted is found."""
    got = scores_of(["inhibits: a -> b\ninhibits: c -> b"], ["inhibits: a -> b\nactivates: b -> c"], RELATIONS)
    assert got == pytest.approx({
        "relation_micro_f1": 0.5, "relation_macro_f1": (2 / 3 + 0) / 2, "relation_precision": 0.5,
        "relation_recall": 0.5, "relation_f1/activates": 0.0, "relation_f1/inhibits": 2 / 3, "relation_exact": 0.0,
        "relation_row_f1": 0.5,
    })  # fmt: skip
    assert scores_of(["inhibits: b -> a"], ["inhibits: a -> b"], RELATIONS)["relation_micro_f1"] == 0.0
    tabs = Metric(name="relations", separator="\t", between="\t", nothing="无")
    assert scores_of(["抑制\t甲\t乙", "无"], ["抑制\t甲\t乙", "无"], tabs)["relation_exact"] == 1.0


def test_json_mentions():
    metric = Metric(name="entities", form="json")
    wanted = '[{"type": "drug", "text": "aspirin"}, {"type": "dose", "text": "5 mg"}]'
    same = '[{"text": "5 mg", "type": "dose"}, {"type": "drug", "text": "aspirin"}]'
    assert scores_of([same, "[]"], [wanted, "none"], metric)["entity_exact"] == 1.0
    half = '[{"type": "drug", "text": "aspirin"}, {"type": "dose"}]'
    assert scores_of([half], [wanted], metric)["entity_micro_f1"] == 0.5
    for broken in ('[{"type": "drug", "te', "[" * 100_000, '{"type": "drug", "text": 5}'):
        got = scores_of([broken], [wanted], metric)
        assert (got["entity_precision"], got["entity_recall"], got["entity_f1/drug"]) == (0.0, 0.0, 0.0)
    relation = '[{"type": "inhibits", "head": "a", "tail": "b"}]'
    assert scores_of([relation], [relation], Metric(name="relations", form="json"))["relation_micro_f1"] == 1.0


def test_only_the_types_asked_for_count_on_both_sides():
    """Other types and what has none are neither right nor wrong, as scikit-learn's `labels` leaves them out."""
    metric = Metric(name="entities", types=["drug"])
    got = scores_of(["drug: a\ndose: 7\nwell"], ["drug: a\ndose: 5"], metric)
    assert (got["entity_micro_f1"], got["entity_macro_f1"], got["entity_exact"]) == (1.0, 1.0, 1.0)
    assert [name for name in got if "/" in name] == ["entity_f1/drug"]


def test_a_corpus_without_any_mention_has_its_scores():
    """0 / 0 is 0, as in seqeval with zero_division=0; the rows are right all the same."""
    got = scores_of(["none", ""], ["none", "none"])
    assert got == {
        "entity_micro_f1": 0.0, "entity_macro_f1": 0.0, "entity_precision": 0.0, "entity_recall": 0.0,
        "entity_exact": 1.0, "entity_row_f1": 1.0,
    }  # fmt: skip


def test_types_that_only_answers_have_pull_the_macro_average_down_and_have_no_score_of_their_own():
    """As in seqeval and scikit-learn, whose types are those of both sides; what can't be read is no type."""
    got = scores_of(["drug: a\nplace: b\noops"], ["drug: a"])
    assert got["entity_macro_f1"] == 0.5
    assert got["entity_precision"] == pytest.approx(1 / 3)
    assert [name for name in got if "/" in name] == ["entity_f1/drug"]


def test_labels_as_scikit_learn_counts_them():
    """Recorded with scikit-learn 1.9.1: precision_recall_fscore_support(wanted, given, average=..., zero_division=0).

    200 random corpora agreed to 1e-16 too; so did 200 of entities with seqeval 1.2.2's classification_report.
    """
    wanted, given = (
        ["a", "a", "a", "a", "b", "b", "b", "c", "c", "d"],
        ["a", "a", "a", "b", "b", "b", "c", "c", "x", "a"],
    )
    rows = [counts("label", [(g,)], [(w,)]) | {"accuracy": float(g == w)} for g, w in zip(given, wanted, strict=True)]
    assert aggregate(rows) == pytest.approx({
        "label_micro_f1": 0.6, "label_macro_f1": 0.38333333333333336, "label_precision": 0.6, "label_recall": 0.6,
        "label_f1/a": 0.75, "label_f1/b": 0.6666666666666666, "label_f1/c": 0.5, "label_f1/d": 0.0, "accuracy": 0.6,
    })  # fmt: skip


def test_entities_as_seqeval_counts_them():
    """The example of its documentation: MISC missed by one token, PER right; micro and macro F1 0.50, P and R 0.50."""
    got = scores_of(["MISC: 2-5", "PER: 0-1"], ["MISC: 3-5", "PER: 0-1"])
    assert {name: got[f"entity_{name}"] for name in ("micro_f1", "macro_f1", "precision", "recall")} == {
        "micro_f1": 0.5, "macro_f1": 0.5, "precision": 0.5, "recall": 0.5,
    }  # fmt: skip
    assert (got["entity_f1/MISC"], got["entity_f1/PER"]) == (0.0, 1.0)


def test_an_answer_without_a_label_is_missed_only():
    """Two answers, one of them no label at all: precision 1 of 1, recall 1 of 2."""
    got = aggregate([counts("label", [("a",)], [("a",)]), counts("label", [], [("a",)])])
    assert (got["label_precision"], got["label_recall"]) == (1.0, 0.5)


def test_counts_are_no_scores_of_a_row():
    assert family_of("entities:a/b/tp") == "entities" and family_of("field/a:b/tp") is None
    reference = "drug: a"
    assert row_score_names(reference, ENTITIES) == ["entity_exact", "entity_row_f1"]
    assert score_names(reference, ENTITIES)[:2] == ["entity_micro_f1", "entity_macro_f1"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "fields", "types": ["a"]}, "`types` is for metric entities and relations, this is fields"),
        ({"name": "entities", "between": "|"}, "`between` is for metric relations, this is entities"),
        ({"name": "entities", "types": ["a: b"]}, "in which the separator ': ' stands"),
        ({"name": "entities", "types": ["a", "a"]}, "`types` holds 'a'"),
        ({"name": "entities", "separator": ""}, "`separator` is empty"),
        ({"name": "entities", "form": "xml"}, "'lines' or 'json'"),
        ({"name": "entities", "value": "x"}, "`value` is for metric program, this is entities"),
    ],
)
def test_settings_without_effect_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        Metric(**settings)
