"""JSON answers worked out by hand."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from finetune.data.metric import Metric
from finetune.errors import DataError
from finetune.evaluate.jsonanswer import json_answer
from finetune.evaluate.metrics import check_metric

PLAIN = Metric(name="json")
SCHEMA = {
    "type": "object", "properties": {"ore": {"type": "string"}, "t": {"type": "number", "minimum": 0}}, "required": ["ore"],
}  # fmt: skip
WANTED = '{"ore": "Cu", "t": 12, "holes": [{"id": "A1"}, {"id": "A2"}], "note": null}'


@pytest.mark.parametrize(
    ("answer", "valid", "bare", "match", "whole"),
    [
        ('{"note": null, "t": 12.0, "ore": "Cu", "holes": [{"id": "A1"}, {"id": "A2"}]}', 1, 1, 1, 1),
        (f"```json\n{WANTED}\n```", 1, 0, 1, 1),
        (f"Here it is:\n```\n{WANTED}\n```\nDone.", 1, 0, 1, 1),
        ('{"ore": "Cu", "t": 13, "holes": [{"id": "A2"}], "note": null}', 1, 1, 2 / 5, 0),
        ('{"ore": "Cu", "t": 12, "holes": [{"id": "A1"}, {"id": "A2"}], "note": null, "more": 1}', 1, 1, 1, 0),
        ('{"ore": "Cu", "t": true, "holes": {}, "note": 0}', 1, 1, 1 / 5, 0),
        ("[]", 1, 1, 0, 0),
        ('{"ore": "Cu", "ore": "Cu"}', 0, 0, 0, 0),
        ('{"t": NaN}', 0, 0, 0, 0),
        (f"{WANTED} and more", 0, 0, 0, 0),
        (f"```json\n{WANTED}\n```\n```json\n{WANTED}\n```", 0, 0, 0, 0),
        ("[" * 100_000, 0, 0, 0, 0),
        ("", 0, 0, 0, 0),
    ],
)
def test_by_hand(answer, valid, bare, match, whole):
    """Five leaves: ore, t, two ids, note."""
    assert json_answer(answer, WANTED, PLAIN) == {
        "valid_json": valid, "bare_json": bare, "field_match": pytest.approx(match), "all_fields": whole,
    }  # fmt: skip


def test_lists_as_sets():
    """The whole match goes first: {"a": 1, "b": 2} must not be taken by {"a": 1, "b": 9}."""
    loose = Metric(name="json", unordered=True)
    assert json_answer("[2, 3, 1]", "[1, 2, 3]", PLAIN)["field_match"] == 0
    assert json_answer("[2, 3, 1]", "[1, 2, 3]", loose)["all_fields"] == 1
    assert json_answer("[1, 1, 2]", "[1, 2, 2]", loose) == {
        "valid_json": 1, "bare_json": 1, "field_match": pytest.approx(2 / 3), "all_fields": 0,
    }  # fmt: skip
    scores = json_answer('[{"a": 1, "b": 2}]', '[{"a": 1, "b": 9}, {"a": 1, "b": 2}]', loose)
    assert (scores["field_match"], scores["all_fields"]) == (1 / 2, 0)
    assert json_answer("[[2, 1], [3]]", "[[3], [1, 2]]", loose)["all_fields"] == 1


def test_leaves_by_value():
    near = Metric(name="json", tolerance=0.01, normalise=("case", "width"))
    assert json_answer('{"a": 100.9, "b": "ＣＵ"}', '{"a": 100, "b": "cu"}', near)["all_fields"] == 1
    assert json_answer('{"a": 101.1, "b": "Cu"}', '{"a": 100, "b": "cu"}', near)["field_match"] == 1 / 2
    assert json_answer("1" + "0" * 400, "1", near)["all_fields"] == 0
    deep, deeper = ("[" * depth + "]" * depth for depth in (100, 900))
    assert json_answer(deep, deep, near)["all_fields"] == 1 and json_answer(deeper, deeper, near)["all_fields"] == 0
    assert json_answer("{}", "{}", PLAIN)["field_match"] == 1 and json_answer("[]", "{}", PLAIN)["field_match"] == 0


def test_schema():
    metric = Metric.model_validate({"name": "json", "schema": SCHEMA})
    for answer, kept in (
        ('{"ore": "Cu", "t": 1}', 1),
        ('{"ore": "Cu", "t": -1}', 0),
        ('{"t": 1}', 0),
        ("[]", 0),
        ("no", 0),
    ):
        assert json_answer(answer, '{"ore": "Cu"}', metric)["valid_schema"] == kept, answer
    assert Metric.model_validate_json(json.dumps(metric.model_dump())) == metric  # as golden samples keep it


def test_schemas_that_are_none():
    check_metric(Metric(name="json", json_schema={"$defs": {"x": {"$anchor": "y"}}, "items": {"$ref": "#y"}}))
    for schema, said in (
        ({"type": "strin"}, "metric.schema: type: 'strin' is not valid"),
        ({"items": {"$ref": "#/$defs/x"}}, "metric.schema: .ref '#/.defs/x' leads nowhere"),
        ({"$ref": "https://example.com/s.json"}, "leads nowhere in this schema"),
    ):
        with pytest.raises(DataError, match=said):
            check_metric(Metric(name="json", json_schema=schema))
    with pytest.raises(ValidationError, match="give the JSON Schema itself, not a file's name"):
        Metric.model_validate({"name": "json", "schema": "ore.schema.json"})
    with pytest.raises(ValidationError, match="`schema` is for metric json, this is fields"):
        Metric.model_validate({"name": "fields", "schema": SCHEMA})
