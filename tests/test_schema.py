"""`finetune schema`: what it refuses `finetune check` refuses, and of keys by themselves the other way round; what ships is
right by it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match
from pydantic import ValidationError

from finetune.cli import main
from finetune.data.templatefile import read_template_file
from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.recipe_peft import PEFT_SECTIONS
from finetune.recipe_stages import STAGE_SECTIONS
from finetune.recipefile import _peft_problems
from finetune.recipepaths import resolve_paths
from finetune.schema.recipe import recipe_schema
from finetune.schema.template import template_schema
from finetune.schema.tidy import PLACE
from finetune.yamlfile import read_yaml
from scripts.make_schema import told
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
TEMPLATES = sorted((ROOT / "data_templates").rglob("*.yaml"))
SCHEMAS = {"recipes": "recipe.schema.json", "data_templates": "template.schema.json"}


@pytest.fixture(scope="module")
def of_recipes() -> Draft7Validator:
    return Draft7Validator(recipe_schema())


@pytest.fixture(scope="module")
def of_templates() -> Draft7Validator:
    return Draft7Validator(template_schema())


def said(validator: Draft7Validator, data: Any) -> list[str]:
    """What is wrong, of alternatives what is wrong with the nearest."""
    errors = [best_match([error]) for error in validator.iter_errors(data)]
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def test_the_meanings_are_those_of_the_documents():
    file = ROOT / "finetune/schema/meanings.json"
    assert json.loads(file.read_text(encoding="utf-8")) == told(), "python scripts/make_schema.py"


@pytest.mark.parametrize(("folder", "options"), [("recipes", []), ("data_templates", ["--template"])])
def test_the_file_that_ships_is_what_the_command_prints(folder, options, capsys, tmp_path):
    """The fields of LoRA and its kin are those of the peft that constraints.txt names."""
    if f"peft=={version('peft')}" not in (ROOT / "constraints.txt").read_text().splitlines():
        pytest.skip("another peft than the one of constraints.txt")
    shipped = (ROOT / folder / SCHEMAS[folder]).read_text(encoding="utf-8")
    assert main(["schema", *options]) == 0
    assert capsys.readouterr().out == shipped, "python scripts/make_schema.py"
    assert main(["schema", *options, "--output", str(tmp_path / "new/s.json")]) == 0
    assert (tmp_path / "new/s.json").read_text(encoding="utf-8") == shipped
    Draft7Validator.check_schema(json.loads(shipped))


def test_what_ships_is_right_and_says_where_its_schema_is(of_recipes, of_templates):
    assert len(RECIPES) > 70 and len(TEMPLATES) > 40
    for files, folder, validator in (
        (RECIPES, "recipes", of_recipes),
        (TEMPLATES, "data_templates", of_templates),
    ):
        for file in files:
            assert said(validator, read_yaml(file)[0]) == [], file
            lead, _, place = file.read_text(encoding="utf-8").partition("\n")[0].partition("$schema=")
            assert lead == "# yaml-language-server: ", file
            assert (file.parent / place).resolve() == ROOT / folder / SCHEMAS[folder], file


def test_mistakes_of_every_kind_are_refused(of_recipes, of_templates):
    right = {"extends": "x.yaml", "data": {"train": ["a.jsonl", {"path": "b.csv", "weight": 2}]}, "lora": {"r": 8}}
    assert said(of_recipes, right) == []
    for wrong, what in (
        ({"trian": {}}, ": Additional properties are not allowed ('trian' was unexpected)"),
        (
            {"train": {"learning_rte": 1}},
            "train: Additional properties are not allowed ('learning_rte' was unexpected)",
        ),
        ({"train": {"max_steps": "ten"}}, "train.max_steps: 'ten' is not valid under any of the given schemas"),
        ({"train": {"global_batch_size": 0}}, "train.global_batch_size: 0 is less than the minimum of 1"),
        ({"stage": "stf"}, "stage: 'stf' is not one of ['cpt', 'sft', "),
        ({"model": {"attn_implementation": "flash"}}, "model.attn_implementation: 'flash' is not one of ['auto', "),
        ({"report_to": ["wandbb"]}, "report_to.0: 'wandbb' is not one of ['tensorboard', "),
        ({"lora": {"use_dorra": True}}, "lora: Additional properties are not allowed ('use_dorra' was unexpected)"),
        ({"export": {"targets": ["vlm"]}}, "export.targets.0: 'vlm' is not one of ['transformers', "),
        ({"stages": [{"stage": "sft", "model": {}}]}, "stages.0: Additional properties are not allowed ('model' was"),
        ({"stages": []}, "stages: [] should be non-empty"),
        ({"mixture": [{"stage": "sft"}]}, "mixture.0: 'weight' is a required property"),
        ({"mixture": [{"stage": "grpo", "weight": 1}]}, "mixture.0.stage: 'grpo' is not one of ['cpt', 'sft', "),
        ({"extends": ["a.yaml"]}, "extends: ['a.yaml'] is not of type 'string'"),
    ):
        assert len(found := said(of_recipes, wrong)) == 1 and found[0].startswith(what), found
    template = read_yaml(ROOT / "data_templates/meteorology/metar_decode.yaml")[0]
    for at, value, what in (
        (("columns", "sky", "type"), "lst", "columns.sky.type: 'lst' is not one of ['str', "),
        (("messages", 0, "role"), "sistem", "messages.0.role: 'sistem' is not one of ['system', "),
        (("messages", 0, "contnt"), "x", "messages.0: Additional properties are not allowed ('contnt' was"),
        (("metric", "tolerance"), "0.1", "metric.tolerance: '0.1' is not of type 'number'"),
        (("examples", 0, "answer"), 12, "examples.0.answer: 12 is not of type 'string'"),
    ):  # fmt: skip
        wrong = copy.deepcopy(template)
        place = wrong
        for word in at[:-1]:
            place = place[word]
        place[at[-1]] = value
        found = [line for line in said(of_templates, wrong) if line.startswith(what)]
        assert found, (at, said(of_templates, wrong))


VALUES = (None, True, -1, 3, 0.5, "text", [], ["a"], [1], {}, {"a": 1}, {"a": "b"})
NEEDED = {"grpo": {"rewards": {"finished": 1}}, "distill": {"teacher": {"name_or_path": "t"}}}
LISTS = {"stages", "mixture"}


def places(schema: dict[str, Any]) -> list[tuple[str, ...]]:
    """Every key of the whole and of its sections, the sections themselves too."""

    def below(node: dict[str, Any], at: tuple[str, ...]) -> list[tuple[str, ...]]:
        found = []
        for key, inner in node["properties"].items():
            found.append((*at, key))
            names = [inner.get("$ref"), *(one.get("$ref") for one in inner.get("anyOf", ()))]
            section = next((name for name in names if name), None)
            listed = any(one.get("type") == "array" for one in inner.get("anyOf", ()))
            if section and not listed:
                found += below(schema["definitions"][section.removeprefix(PLACE)], (*at, key))
        return found

    return below({"properties": {k: v for k, v in schema["properties"].items() if k not in {*LISTS, "extends"}}}, ())


def judged(place: tuple[str, ...], value: Any) -> tuple[bool, bool]:
    """Whether the loader refuses a recipe with this value, and whether it does for the key's own sake."""
    data: dict[str, Any] = {
        "name": "n", "output_dir": "o", "model": {"name_or_path": "m"}, "train": {"max_steps": 9},
        "data": {"format": "auto", "train": "a.jsonl", "split": {"eval_rows": 8}},
    }  # fmt: skip
    if place[0] in STAGE_SECTIONS:
        data |= {"stage": place[0]} | ({place[0]: copy.deepcopy(NEEDED[place[0]])} if place[0] in NEEDED else {})
    if place[0] in PEFT_SECTIONS:
        data |= {"peft_type": place[0]}
    target = data
    for word in place[:-1]:
        inner = target.get(word)
        target[word] = inner if isinstance(inner, dict) else {}
        target = target[word]
    target[place[-1]] = value
    if place == ("model", "add_tokens") and isinstance(value, str):
        return False, False  # a file's name
    of_peft, kinds = _peft_problems(data, {}), set()
    resolve_paths(data, {})
    try:
        Recipe.model_validate(data)
    except ValidationError as error:
        kinds = {item["type"] for item in error.errors()}
    return bool(of_peft or kinds), bool(of_peft or kinds - {"value_error", "missing"})


def test_schema_and_loader_agree_on_every_key(of_recipes):
    """Every value that the schema refuses, the loader refuses; and those that are wrong by themselves, both do. What only
    several keys together make wrong (a validator's own error) the schema may let through."""
    found, count = [], 0
    for place in places(of_recipes.schema):
        for value in VALUES:
            small: Any = value
            for word in reversed(place):
                small = {word: small}
            refused = not of_recipes.is_valid(small)
            by_loader, own = judged(place, value)
            count += 1
            if refused and not by_loader:
                found.append(f"{'.'.join(place)}: {value!r}: the schema refuses what is right")
            if own and not refused:
                found.append(f"{'.'.join(place)}: {value!r}: the schema takes what is wrong")
    assert count > 2500
    assert not found, "\n".join(found)


def test_a_template_s_short_forms(of_templates, tmp_path):
    """What the reader takes beyond the plain form, the schema takes; both refuse the same."""
    file = ROOT / "data_templates/meteorology/metar_decode.yaml"
    text = file.read_text(encoding="utf-8")
    for metric, right in (
        ("{name: label, labels: [a, b]}", True),
        ("{name: label, labels: {a: x, b: [y, z], c: null}}", True),
        ("{name: label, labels: [a, a]}", False),
        ("{name: label, labels: [1]}", False),
        ("{name: json, schema: {type: object}}", True),
        ("{name: json, json_schema: {type: object}}", True),
        ("{name: json, schema: a.json}", False),
        ("{name: exact_match, normalise: [upper]}", False),
    ):
        copied = tmp_path / "t.yaml"
        lines = [line for line in text.splitlines() if not line.startswith("metric:")]
        assert len(lines) == len(text.splitlines()) - 1
        copied.write_text("\n".join([*lines, f"metric: {metric}"]), encoding="utf-8")
        assert of_templates.is_valid(read_yaml(copied)[0]) == right, metric
        try:
            read_template_file(copied)
        except RecipeError:
            assert not right, metric
        else:
            assert right, metric


def test_no_torch_and_no_peft_for_a_schema():
    code = (
        "import sys; from finetune.schema.recipe import recipe_schema; from finetune.schema.template import template_schema;"
        "recipe_schema(); template_schema(); print([m for m in ('torch', 'peft', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_output_that_can_t_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["schema", "--output", str(tmp_path / "file/s.json")]) == 2
    assert capsys.readouterr().err.startswith(f"{Path(tmp_path / 'file/s.json')}: can't be written: ")
