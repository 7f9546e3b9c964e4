"""`from finetune import load_recipe, run`: the same line as `finetune train`, from Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import finetune
from finetune import RecipeError, load_recipe, run
from tests.conftest import ROOT, write_tiny_recipe


def test_a_run_from_python(tiny_base, tiny_data, tmp_path):
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    overrides = {"train.max_steps": 2, "output_dir": tmp_path / "mine", "gate": {"better_than_base": False}}
    recipe = load_recipe(file, overrides)
    assert isinstance(recipe, finetune.Recipe) and recipe.train.max_steps == 2
    result = run(recipe)
    assert isinstance(result, finetune.Result)
    assert result.bundle == tmp_path / "mine/bundle" and (result.bundle / "MANIFEST.json").is_file()
    assert result.scores == json.loads((tmp_path / "mine/scores.json").read_text())["scores"]
    again = load_recipe(
        str(file), ["train.max_steps=2", f"output_dir={tmp_path / 'mine'}", "gate={better_than_base: false}"]
    )
    assert again == recipe


def test_mistakes_come_all_at_once(tiny_base, tiny_data, tmp_path):
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    with pytest.raises(RecipeError) as error:
        load_recipe(file, {"train.max_step": 2, "lora.r": -1})
    assert len(error.value.problems) == 2
    with pytest.raises(RecipeError, match="no shipped recipe has that name"):
        load_recipe("pack:mining/gas_alarms")


def test_shipped_recipes_by_name():
    assert load_recipe("pack:meteorology/metar_decode").name == "metar_decode"


def test_the_names_are_what_they_say_however_they_are_imported():
    """`finetune.run` is a module of that name too: the function is what the package has, before and after its import."""
    code = """
import sys, finetune
assert not {"torch", "pydantic", "finetune.run"} & sys.modules.keys()
from finetune import run, Recipe
import finetune.run
from finetune import run as again
from finetune.run import run as third
assert callable(run) and run is again is third is finetune.run
assert sys.modules["finetune.run"].Result is finetune.Result
assert all(getattr(finetune, name) for name in finetune.__all__)
try:
    finetune.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "module 'finetune' has no attribute 'nothing'\n", done.stderr
    assert Path(finetune.__file__).parent == ROOT / "finetune"
