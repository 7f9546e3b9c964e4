"""Recipes: every mistake is named with file, line and key; nothing is ignored; checking needs no torch."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.errors import RecipeError
from finetune.recipe import resolved
from finetune.recipe_peft import LoraSection, config_fields
from finetune.recipefile import load_recipe
from finetune.yamlfile import parse_scalar, read_yaml
from tests.conftest import ROOT


def problems_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


def test_all_problems_at_once_each_with_its_line(tmp_path, tiny_data):
    file = tmp_path / "bad.yaml"
    file.write_text(
        "name: bad\n"
        "output_dir: out\n"
        "model: {name_or_path: some/model, dtyp: float32}\n"
        "lora:\n"
        "  lora_aplha: 4\n"
        "  r: eight\n"
        "data:\n"
        f"  template: {tiny_data}/larger.yaml\n"
        f"  train: {tiny_data}/larger.jsonl\n"
        "  split: {eval_rows: 0}\n"
        "train:\n"
        "  max_steps: 3\n"
        "  learnig_rate: 1e-4\n"
        "stagge: []\n",
        encoding="utf-8",
    )
    assert problems_of(file) == [
        f"{file}:5: lora.lora_aplha: not a field of peft.LoraConfig; did you mean 'lora_alpha'?",
        f"{file}:3: model.dtyp: unknown key; did you mean 'dtype'?",
        f"{file}:6: lora.r: input should be a valid integer; got 'eight'",
        f"{file}:10: data.split.eval_rows: input should be greater than or equal to 1; got 0",
        f"{file}:13: train.learnig_rate: unknown key; did you mean 'learning_rate'?",
        f"{file}:14: stagge: unknown key; did you mean 'stage'?",
    ]


def test_a_key_in_the_wrong_section_is_sent_to_the_right_one(tiny_recipe, tmp_path):
    tiny_recipe()
    file = tmp_path / "tiny.yaml"
    assert problems_of(file, "learning_rate=1e-4", "train.r=8") == [
        "--set: train.r: unknown key; it belongs under lora: (lora.r)",
        "--set: learning_rate: unknown key; it belongs under train: (train.learning_rate)",
    ]


def test_overrides_read_as_a_file_would(tiny_recipe):
    recipe = tiny_recipe("train.learning_rate=1e-5", "train.max_steps=7", "name=no", "gate.min.all_fields=0.5")
    assert (recipe.train.learning_rate, recipe.train.max_steps, recipe.name) == (1e-5, 7, "no")
    assert recipe.gate.min == {"all_fields": 0.5}


def test_yaml_1_1_traps_are_closed(tmp_path):
    """T47: `1e-5` is a number; `no`, `12:30:00`, `017` and dates are text; duplicate keys, anchors, tags are refused."""
    file = tmp_path / "x.yaml"
    file.write_text("a: 1e-5\nb: no\nc: 12:30:00\nd: 017\ne: 2022-10-22\nf: null\ng: 'null'\nh: 1_000\ni: .5\n")
    assert read_yaml(file)[0] == {
        "a": 1e-5, "b": "no", "c": "12:30:00", "d": "017", "e": "2022-10-22", "f": None, "g": "null", "h": 1000, "i": 0.5,
    }  # fmt: skip
    for text, line, what in (
        ("a: 1\nb: 2\na: 3\n", 3, "given twice"),
        ("a: &x [1]\nb: *x\n", 1, "anchors"),
        ("a: 1\nb: !!python/name:os.system ''\n", 2, "not allowed"),
        ("a: [1,\nb: 2\n", 3, "expected"),
    ):
        file.write_text(text)
        with pytest.raises(RecipeError) as caught:
            read_yaml(file)
        assert caught.value.problems[0].startswith(f"{file}:{line}:")
        assert what in caught.value.problems[0]
    assert parse_scalar("[a, 2]") == ["a", 2]


def test_extends_merges_sections_and_keeps_each_key_s_line(tmp_path, tiny_recipe):
    tiny_recipe()
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: tiny.yaml\nname: child\ntrain:\n  max_steps: 9\nlora: {target_modules: [q_proj, v_proj]}\n"
    )
    recipe = load_recipe(child)
    assert recipe.name == "child"
    assert (recipe.train.max_steps, recipe.train.global_batch_size) == (9, 4)
    assert (recipe.lora.r, recipe.lora.target_modules) == (4, ("q_proj", "v_proj"))
    child.write_text("extends: tiny.yaml\nname: child\ntrain:\n  max_stepz: 9\n")
    assert problems_of(child) == [f"{child}:4: train.max_stepz: unknown key; did you mean 'max_steps'?"]


def test_extends_itself(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert "extends itself" in problems_of(tmp_path / "a.yaml")[0]


def test_missing_parent_template_and_data(tmp_path, tiny_recipe):
    child = tmp_path / "child.yaml"
    child.write_text("extends: nowhere.yaml\n")
    assert problems_of(child) == [f"{tmp_path}/nowhere.yaml: no such file"]
    tiny_recipe()
    child.write_text("extends: tiny.yaml\ndata:\n  template: t.yaml\n  train: [x.jsonl]\n")
    assert problems_of(child) == [
        f"{child}:3: data.template: no such file: {tmp_path}/t.yaml",
        f"{child}:4: data.train: no such file: {tmp_path}/x.jsonl",
    ]


def test_lora_fields_are_those_of_the_installed_peft():
    from peft import LoraConfig, PeftConfig

    ours = {field.name for field in dataclasses.fields(LoraConfig)} - {
        field.name for field in dataclasses.fields(PeftConfig)
    }
    assert ours <= config_fields(LoraSection) <= {field.name for field in dataclasses.fields(LoraConfig)}


def test_every_lora_field_passes_through(tiny_recipe):
    recipe = tiny_recipe("lora.use_rslora=true", "lora.rank_pattern={q_proj: 8}")
    assert recipe.lora.model_dump()["use_rslora"] is True
    assert recipe.lora.model_dump()["rank_pattern"] == {"q_proj": 8}


def test_the_resolved_recipe_loads_to_itself(tiny_recipe, tmp_path):
    import yaml

    recipe = tiny_recipe("report_to=[tensorboard]")
    file = tmp_path / "resolved.yaml"
    file.write_text(yaml.safe_dump(resolved(recipe), sort_keys=False))
    assert load_recipe(file) == recipe


def test_an_unknown_tracker_is_refused(tmp_path, tiny_recipe):
    tiny_recipe()
    assert "did you mean 'wandb'" in problems_of(tmp_path / "tiny.yaml", "report_to=[wandbb]")[0]


def test_check_of_a_wrong_recipe_imports_no_torch_and_exits_with_2(tmp_path, tiny_recipe):
    """Under 0.6 s on an idle machine; the bound here is loose because machines are shared."""
    tiny_recipe()
    code = (
        "import sys; from finetune.cli import main; code = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "check", str(tmp_path / "tiny.yaml"), "--set", "train.learnig_rate=1"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (
        2,
        "--set: train.learnig_rate: unknown key; did you mean 'learning_rate'?\n",
    )
    assert time.perf_counter() - started < 5
    right = subprocess.run([*command[:-2]], capture_output=True, text=True, cwd=ROOT)
    assert right.returncode == 0, right.stderr
    assert right.stdout == f"{tmp_path}/tiny.yaml: right; 31 samples to train on, 9 held out\n"


def test_a_local_copy_of_a_hub_dataset_is_found_from_the_recipe_s_folder(tmp_path, tiny_recipe, monkeypatch):
    """The same rule as for a model: what exists or starts with a dot is a path; a revision stays behind it."""
    tiny_recipe()
    (tmp_path / "copies/ds").mkdir(parents=True)
    (tmp_path / "at@home").mkdir()
    base = (tmp_path / "tiny.yaml").read_text(encoding="utf-8")
    sources = "[{hub: ./copies/ds@v1}, {hub: copies/ds}, {hub: at@home}, {hub: org/name@v2}]"
    (tmp_path / "local.yaml").write_text(
        re.sub(r"(?m)^  train: .*jsonl$", f"  train: {sources}", base), encoding="utf-8"
    )
    monkeypatch.chdir("/")
    train = load_recipe(tmp_path / "local.yaml").data.train
    here = str(tmp_path.resolve())
    assert [source.hub for source in train] == [
        f"{here}/copies/ds@v1", f"{here}/copies/ds", f"{here}/at@home", "org/name@v2"
    ]  # fmt: skip


def test_a_missing_copy_and_a_missing_benchmark_are_named_with_what_is_near(tmp_path, tiny_recipe, monkeypatch):
    tiny_recipe()
    (tmp_path / "bench.jsonl").write_text("{}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.yaml"
    assert problems_of(
        file, "data.train=[{hub: ./copy@v1}]", "data.screen={benchmarks: [bensh.jsonl, bench.jsonl]}"
    ) == [
        f"--set: data.train: no such file: {tmp_path.resolve()}/copy",
        f"--set: data.screen.benchmarks: no such file: {tmp_path.resolve()}/bensh.jsonl; did you mean 'bench.jsonl'?",
    ]
