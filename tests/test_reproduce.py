"""A bundle run again: the same to the last bit here; another base, data, template or seed is named and refused."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import yaml

from finetune.cli import main
from finetune.data.filehash import file_sha256
from finetune.errors import RecipeError
from finetune.export.comparison import verdict_of
from finetune.reproduce import checked, read_manifest


def output_of(capsys) -> tuple[list[str], list[str]]:
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def test_the_same_machine_gives_the_same_bits(finished_run, tmp_path, capsys):
    """Adapter file byte for byte, every count, the loss and every score; and the table says so."""
    bundle = finished_run[1].bundle
    assert main(["reproduce", str(bundle), "--output", str(tmp_path / "again")]) == 0
    out, _err = output_of(capsys)
    assert out[-1] == "reproduced: the same to the last bit"
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "again/bundle" / name).read_bytes() == (bundle / name).read_bytes()
    rows = {line[:26].strip(): line[26:].split() for line in out}
    assert rows["data: train_samples"] == ["31", "31", "0"]
    assert rows["training: trained_tokens"] == ["600", "600", "0"]
    assert rows["adapter"] == ["the", "same", "to", "the", "last", "bit", "0"]
    loss = f"{finished_run[1].manifest['training']['loss']:.6g}"
    assert rows["training loss"] == [loss, loss, "0"]
    assert not (tmp_path / ".encoded").exists(), "the rows are encoded anew, not taken from a cache"


@pytest.mark.slow
def test_other_settings_are_another_run(tiny_recipe, tmp_path, capsys):
    """Exit code 3: a learning rate that teaches nothing (its score is named), another seed (other held-out rows)."""
    from finetune.run import run

    lora = ("lora.r=16", "lora.lora_alpha=32", "lora.modules_to_save=[embed_tokens]")
    steps = ("train.max_steps=200", "train.logging_steps=100", "train.global_batch_size=16")
    learnt = run(tiny_recipe(*lora, *steps, "train.learning_rate=0.005"))
    limit = 1 / learnt.manifest["data"]["evaluate_samples"]
    name, worst = max(learnt.scores["tuned"].items(), key=lambda score: score[1])  # differs from chip to chip
    assert worst > 2 * limit
    capsys.readouterr()
    again = ["reproduce", str(learnt.bundle), "--output"]
    assert main([*again, str(tmp_path / "slow"), "--set", "train.learning_rate=1e-6"]) == 3
    out, err = output_of(capsys)
    assert out[0] == "differs: train.learning_rate: 1e-06 here, 0.005 then"  # it all comes to 0 now
    assert err[-1] == f"not reproduced: a score differs by {worst:.3f}, the tolerance is {limit:.3f}"
    assert any(line.startswith(name) and line.endswith(f"{worst:.3g}") for line in err)
    assert main([*again, str(tmp_path / "seed"), "--set", "seed=4", "--set", "train.max_steps=3"]) == 3
    out, err = output_of(capsys)
    assert out[:2] == ["differs: seed: 4 here, 3 then", "differs: train.max_steps: 3 here, 200 then"]
    assert err[-1].startswith("not reproduced: ") and "training: steps" in err[-1]


@pytest.fixture
def moved(finished_run, tiny_base, tiny_data, tmp_path):
    """The bundle, its base and its data copied to another place, the recipe still naming the first one's."""
    bundle = shutil.copytree(finished_run[1].bundle, tmp_path / "bundle")
    shutil.copytree(tiny_base, tmp_path / "base")
    shutil.copytree(tiny_data, tmp_path / "data")
    return bundle


def where(tmp_path):
    return [f"data.train={tmp_path / 'data/larger.jsonl'}", f"model.name_or_path={tmp_path / 'base'}"]


def problems_of(bundle, tmp_path, overrides):
    with pytest.raises(RecipeError) as error:
        checked(bundle, read_manifest(bundle), tmp_path / "again", overrides)
    assert not (tmp_path / "again").exists()
    return error.value.problems


def test_a_moved_bundle_runs_from_its_new_places(moved, tmp_path):
    """Only places differ, so nothing is said; the template is the bundle's own copy."""
    recipe, notes = checked(moved, read_manifest(moved), tmp_path / "again", where(tmp_path))
    assert notes == []
    assert recipe.data.template == moved / "data_template.yaml"
    assert recipe.data.train[0].path == str(tmp_path / "data/larger.jsonl")
    assert (recipe.output_dir, recipe.data.cache) == (tmp_path / "again", False)


def test_changed_base_data_and_template_are_refused_together_with_both_hashes(moved, tmp_path):
    manifest = read_manifest(moved)
    for name in ("data/larger.jsonl", "base/model.safetensors", "data/larger.yaml"):
        with (tmp_path / name).open("ab") as file:
            file.write(b"\n")
    overrides = [*where(tmp_path), f"data.template={tmp_path / 'data/larger.yaml'}"]
    problems = problems_of(moved, tmp_path, overrides)
    assert len(problems) == 3
    for name, recorded in (
        ("base/model.safetensors", manifest["base"]["sha256"]["model.safetensors"]),
        ("data/larger.yaml", manifest["data"]["template_sha256"]),
        ("data/larger.jsonl", manifest["data"]["sources"][0]["sha256"]),
    ):
        line = next(problem for problem in problems if str(tmp_path / name) in problem)
        assert recorded in line and file_sha256(tmp_path / name) in line


def test_files_that_are_gone_are_named_with_what_to_say(moved, tmp_path):
    """The recipe names places of another machine."""
    recipe = yaml.safe_load((moved / "recipe.yaml").read_text())
    recipe["data"]["train"][0]["path"] = "/no/such/larger.jsonl"
    recipe["model"]["name_or_path"] = "/no/such/base"
    (moved / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    manifest = json.loads((moved / "MANIFEST.json").read_text())
    manifest["files"]["recipe.yaml"] = file_sha256(moved / "recipe.yaml")
    (moved / "MANIFEST.json").write_text(json.dumps(manifest))
    data = problems_of(moved, tmp_path, [])
    assert len(data) == 1
    assert "no such file: /no/such/larger.jsonl; say where it is now: --set data.train=/new/place" in data[0]
    base = problems_of(moved, tmp_path, where(tmp_path)[:1])
    assert base == [
        "model.name_or_path: no such folder: /no/such/base; say where it is now: --set model.name_or_path=/new/place/model"
    ]
    checked(moved, read_manifest(moved), tmp_path / "again", where(tmp_path))


def test_a_base_of_the_hub_is_taken_at_its_commit(moved, tmp_path):
    manifest = read_manifest(moved)
    manifest["base"] = {"name_or_path": "org/model", "revision": None, "commit": "abc123"}
    places = where(tmp_path)[:1]
    recipe, _notes = checked(moved, manifest, tmp_path / "again", [*places, "model.name_or_path=org/model"])
    assert recipe.model.revision == "abc123"
    for wrong in (["model.name_or_path=org/other"], ["model.name_or_path=org/model", "model.revision=main"]):
        with pytest.raises(RecipeError, match="the bundle's base is org/model@abc123"):
            checked(moved, manifest, tmp_path / "again", [*places, *wrong])


def test_other_versions_are_said_not_refused(moved, tmp_path):
    manifest = read_manifest(moved)
    manifest["versions"] |= {"peft": "0.1.0", "no-such-package": "1.0"}
    _recipe, notes = checked(moved, manifest, tmp_path / "again", where(tmp_path))
    assert notes[0].startswith("differs: peft ") and notes[0].endswith(" here, 0.1.0 then")
    assert notes[1:] == ["differs: no-such-package not installed here, 1.0 then"]


def test_what_is_no_bundle_or_was_changed_is_refused(moved, tmp_path, capsys):
    assert main(["reproduce", str(tmp_path)]) == 2
    assert output_of(capsys)[1] == [f"{tmp_path}: not a bundle: no MANIFEST.json in it"]
    (moved / "recipe.yaml").write_text("name: other\n")
    (moved / "adapter/adapter_model.safetensors").unlink()
    assert main(["reproduce", str(moved)]) == 2
    _out, err = output_of(capsys)
    assert any("recipe.yaml: sha256" in line and "the manifest says" in line for line in err)
    assert any("adapter_model.safetensors: is missing" in line for line in err)
    manifest = json.loads((moved / "MANIFEST.json").read_text())
    del manifest["scores"], manifest["data"]
    (moved / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(RecipeError, match="not the bundle of a run: no data, scores"):
        read_manifest(moved)


def test_an_output_that_is_there_is_not_touched(moved, tmp_path, capsys):
    assert main(["reproduce", str(moved), "--output", str(tmp_path / "data")]) == 2
    assert output_of(capsys)[1] == [f"--output: {tmp_path / 'data'} already exists"]


@pytest.mark.parametrize(
    ("score", "same", "verdict"),
    [
        (0.5, True, "reproduced: every score the same within 0.000 (tolerance 0.020)"),
        (0.515, True, "reproduced: every score the same within 0.015 (tolerance 0.020)"),
        (0.53, False, "not reproduced: a score differs by 0.030, the tolerance is 0.020"),
    ],
)
def test_the_verdict_by_the_stated_tolerance(finished_run, tmp_path, score, same, verdict):
    """Two hundred held-out rows, so 0.02 and not one row's share; the adapter differs in one value by a thousandth."""
    from safetensors.torch import load_file, save_file

    bundle = finished_run[1].bundle
    other = tmp_path / "adapter/adapter_model.safetensors"
    other.parent.mkdir()
    tensors = load_file(bundle / "adapter/adapter_model.safetensors")
    name = next(name for name in tensors if "lora_B" in name)
    place = int(tensors[name].abs().argmax())
    tensors[name].view(-1)[place] *= 1.001
    save_file(tensors, other)
    before = copy.deepcopy(finished_run[1].manifest)
    before["data"]["evaluate_samples"] = 200
    before["scores"]["tuned"] = {"exact": 0.5, "finished": 1.0}
    now = copy.deepcopy(before)
    now["scores"]["tuned"]["exact"] = score
    now["environment"]["accelerator"] = "another"
    lines, said, alike = verdict_of(bundle, before, tmp_path, now)
    assert (alike, said) == (same, verdict)
    assert next(line for line in lines if line.startswith("adapter")).split()[-1] == "0.001"
    assert "differs: accelerator: another here, None then" in lines
