"""Chains of stages: each goes on from the last, and a stage in a chain is the same stage alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from finetune.cli import main
from finetune.data.filehash import file_sha256
from finetune.errors import RecipeError
from finetune.recipe import OF_ONE_STAGE, Recipe, resolved
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.processes import FSDP2, torchrun
from tests.equivalence.test_resume import exact, run_until, state

TWO = [
    {"name": "first", "train": {"max_steps": 4}},
    {"name": "second", "train": {"max_steps": 3, "learning_rate": 0.005}},
]


def weights(run_folder: Path) -> bytes:
    return (run_folder / "adapter/adapter_model.safetensors").read_bytes()


def chain_file(folder: Path, base: Path, data: Path, stages: list[dict], name: str = "tiny") -> Path:
    file = write_tiny_recipe(folder, base, data, name)
    recipe = yaml.safe_load(file.read_text())
    file.write_text(
        yaml.safe_dump(recipe | {"stages": [{"stage": "sft"} | stage for stage in stages]}, sort_keys=False)
    )
    return file


@pytest.fixture
def chain(tiny_base, tiny_data, tmp_path):
    def make(stages: list[dict], *overrides: str) -> Recipe:
        return load_recipe(chain_file(tmp_path, tiny_base, tiny_data, stages), overrides)

    return make


@pytest.fixture(scope="module")
def alone(tiny_base, tiny_data, tmp_path_factory) -> dict[str, Path]:
    """The two stages as runs of their own, the second from the first's adapter, and from its merged model."""
    folder = tmp_path_factory.mktemp("alone")
    found = {}
    for name, changes in (
        ("first", ["train.max_steps=4"]),
        (
            "adapter",
            [
                "train.max_steps=3",
                "train.learning_rate=0.005",
                f"model.adapter_name_or_path={folder}/first/run/adapter",
            ],
        ),
        ("merged", ["train.max_steps=3", "train.learning_rate=0.005", f"model.name_or_path={folder}/first/run/bundle"]),
    ):
        (folder / name).mkdir()
        run(load_recipe(write_tiny_recipe(folder / name, tiny_base, tiny_data), changes))
        found[name] = folder / name / "run"
    return found


@pytest.mark.parametrize("how", ["adapter", "merged"])
def test_a_stage_in_a_chain_is_the_stage_alone(chain, alone, how):
    """Bit for bit; one bundle at the end, whose manifest has the earlier stage; base scores and proof are there."""
    recipe = chain([TWO[0], TWO[1] | {"continue_from": how}])
    result = run(recipe)
    assert result is not None
    out = recipe.output_dir
    assert weights(out / "stages/1-first") == weights(alone["first"])
    assert weights(out) == weights(alone[how]) and exact(out) == exact(alone[how])
    assert not (out / "stages/1-first/bundle").exists()
    [earlier] = result.manifest["training"]["stages"]
    assert (earlier["name"], earlier["training"]["steps"]) == ("tiny.first", 4)
    assert (out / "base").is_dir() == (out / "bundle/base").is_dir() == (how == "merged")
    if how == "merged":
        of = json.loads((out / "base/merged_from.json").read_text())
        assert of == {
            "stage": "tiny.first",
            "adapter": file_sha256(alone["first"] / "adapter/adapter_model.safetensors"),
        }
    again = load_recipe(out / "bundle/recipe.yaml")
    assert resolved(again) == resolved(recipe)


def test_one_stage_is_the_run_alone(chain, alone):
    recipe = chain(TWO[:1])
    run(recipe)
    assert weights(recipe.output_dir) == weights(alone["first"])


def test_stopped_and_resumed_in_either_stage(chain, alone, monkeypatch):
    """Stopped in the first stage, then in the second; every resumed run is the uninterrupted one, nothing trained twice."""
    recipe = chain(TWO)
    calls = recipe.stages[0].train.global_batch_size // 4  # micro-batches of a step
    run_until(recipe, 2 * calls, monkeypatch)
    assert state(recipe.output_dir)[0] == "preempted"
    assert state(recipe.output_dir / "stages/1-first") == ("preempted", 2)
    run_until(recipe, 3 * calls, monkeypatch, resume="auto")
    assert state(recipe.output_dir / "stages/1-first") == ("finished", 4)
    before = (recipe.output_dir / "stages/1-first/adapter/adapter_model.safetensors").stat().st_mtime_ns
    run(recipe, resume="auto")
    assert weights(recipe.output_dir) == weights(alone["adapter"])
    assert (recipe.output_dir / "stages/1-first/adapter/adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_finished_stage_that_changed_is_another_run(chain, monkeypatch):
    recipe = chain(TWO)
    run_until(recipe, 6, monkeypatch)
    if state(recipe.output_dir / "stages/1-first")[0] != "finished":
        run_until(recipe, 4, monkeypatch, resume="auto")
    with pytest.raises(RecipeError) as caught:
        run(chain([TWO[0] | {"train": {"max_steps": 4, "weight_decay": 0.5}}, TWO[1]]), resume="auto")
    assert caught.value.problems[0] == "stage tiny.first: its recipe changed since it finished"


def test_mistakes_in_stages_are_all_named(tiny_base, tiny_data, tmp_path, capsys):
    stages = [
        {"name": "first", "continue_from": "adapter", "train": {"max_steps": 4, "learning_rat": 1}},
        {"name": "second", "export": {}, "lora": {"r": 8}},
    ]
    file = chain_file(tmp_path, tiny_base, tiny_data, stages)
    text = file.read_text().splitlines()

    def line(word: str) -> str:
        return f"{file}:{next(n for n, row in enumerate(text, 1) if word in row)}"

    assert main(["check", str(file)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "several things are wrong:",
        f"{line('export: {}')}: stages.1.export: not a key of a stage; allowed: {', '.join(sorted(OF_ONE_STAGE))}",
        f"{line('learning_rat:')}: train.learning_rat: unknown key; did you mean 'learning_rate'?",
    ]
    del stages[0]["train"]["learning_rat"], stages[1]["export"]
    chain_file(tmp_path, tiny_base, tiny_data, stages)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "stages.0.continue_from: the first stage has no earlier one to continue from",
        "stages.1.lora: differs from the stage before, whose adapter is trained on; the same settings, or "
        "continue_from: merged (a fresh adapter on the merged model)",
    ]


def test_held_out_rows_of_the_last_stage_are_trained_on_in_none(chain):
    """Another split in the first stage would train on what the last one is judged by."""
    other = {"split": {"by": "group", "eval_rows": 20}}
    with pytest.raises(RecipeError) as caught:
        run(chain([TWO[0], TWO[1] | {"data": other}]))
    assert "trained on in stage tiny.first, held out in tiny.second" in caught.value.problems[0]
    assert caught.value.problems[-1].startswith("stages: hold the same rows out of every stage")


def test_an_adapter_to_start_from_must_be_the_recipe_s(tiny_recipe, alone, tmp_path):
    place = f"model.adapter_name_or_path={alone['first']}/adapter"
    with pytest.raises(RecipeError) as caught:
        run(tiny_recipe(place, "lora.r=8", "lora.use_rslora=true"))
    assert [problem.split(" in /")[0] for problem in caught.value.problems] == [
        "lora.r: 8, but the adapter", "lora.use_rslora: True, but the adapter",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="no adapter in"):
        run(tiny_recipe(f"model.adapter_name_or_path={tmp_path}/nowhere"))
    with pytest.raises(RecipeError, match="belongs to a base that was changed for it"):
        run(tiny_recipe(place, "lora.init_lora_weights=pissa"))


def test_what_is_set_on_the_command_line_counts_in_every_stage(chain):
    recipe = chain(
        TWO, "stages.1.train.learning_rate=0.25", "train.max_steps=2", "train.learning_rate=0.5", "evaluate.rows=2"
    )
    assert [stage.train.max_steps for stage in recipe.stages] == [2, 2]
    assert [stage.train.learning_rate for stage in recipe.stages] == [0.5, 0.25]
    assert json.loads(json.dumps(resolved(recipe)))["evaluate"]["rows"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "how"), [pytest.param("ddp", "adapter", marks=pytest.mark.long), ("fsdp2", "merged")]
)
def test_a_chain_on_two_processes(tiny_base, tiny_data, tmp_path, alone, engine, how):
    """Two gloo processes = one, through both stages: every loss to 1e-5, the adapter to 1e-4."""
    file = chain_file(tmp_path, tiny_base, tiny_data, [TWO[0], TWO[1] | {"continue_from": how}])
    torchrun([ROOT / "scripts/train.py", file], FSDP2 if engine == "fsdp2" else None)
    for folder, single in (("run/stages/1-first", alone["first"]), ("run", alone[how])):
        assert [line[:2] for line in exact(tmp_path / folder)] == [
            (step, pytest.approx(loss, abs=1e-5)) for step, loss, *_ in exact(single)
        ]
        one, two = (load_file(place / "adapter/adapter_model.safetensors") for place in (single, tmp_path / folder))
        assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    assert json.loads((tmp_path / "run/bundle/MANIFEST.json").read_text())["training"]["processes"] == 2
