"""A base named by hub id and revision, from a hub cache on disk: training, merge and adapter all mean that commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, byte_tokenizer, tiny_llama, write_tiny_recipe
from tests.custom_code.made import write_custom_base

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def hub_cache(home: Path) -> None:
    """`org/tiny` with two revisions of different weights, as huggingface_hub lays them out."""
    repo = home / "hub/models--org--tiny"
    for seed, (revision, commit) in enumerate(COMMITS.items()):
        snapshot = repo / "snapshots" / commit
        tokenizer = byte_tokenizer()
        tiny_llama(len(tokenizer), seed).save_pretrained(snapshot)
        tokenizer.save_pretrained(snapshot)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / revision).write_text(commit)


@pytest.mark.slow
def test_the_revision_is_the_base_everywhere(tmp_path, tiny_data):
    home = tmp_path / "home"
    hub_cache(home)
    file = write_tiny_recipe(tmp_path, Path("org/tiny"), tiny_data)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "finetune.cli",
            "train",
            str(file),
            "--set",
            "model.revision=v1",
            "--set",
            "train.max_steps=2",
        ],
        env=os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / "run/bundle"
    base = json.loads((bundle / "MANIFEST.json").read_text())["base"]
    assert base == {"name_or_path": "org/tiny", "revision": "v1", "commit": COMMITS["v1"]}
    adapter = json.loads((bundle / "adapter/adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("org/tiny", COMMITS["v1"])
    merged = load_file(bundle / "model.safetensors")["model.norm.weight"]
    embedding = load_file(bundle / "model.safetensors")["model.embed_tokens.weight"]
    v1 = load_file(home / "hub/models--org--tiny/snapshots" / COMMITS["v1"] / "model.safetensors")
    assert torch.equal(embedding, v1["model.embed_tokens.weight"]) and torch.equal(merged, v1["model.norm.weight"])
    main = load_file(home / "hub/models--org--tiny/snapshots" / COMMITS["main"] / "model.safetensors")
    assert not torch.equal(embedding, main["model.embed_tokens.weight"])


@pytest.mark.slow
def test_a_hub_id_that_is_not_there_is_one_clear_line(tmp_path, tiny_data):
    file = write_tiny_recipe(tmp_path, Path("org/nowhere"), tiny_data)
    done = subprocess.run(
        [sys.executable, "-m", "finetune.cli", "train", str(file)],
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("model.name_or_path: no tokenizer from 'org/nowhere'")
    assert not (tmp_path / "run").exists()  # nothing half-written


@pytest.mark.slow
def test_smoke_needs_no_weights_of_a_hub_id_and_takes_its_own_code_along(tmp_path, tiny_data):
    """config.json, tokenizer and code alone in the hub's cache; what runs is a copy of that code in the tiny base."""
    snapshot = tmp_path / "home/hub/models--org--sandwich/snapshots" / COMMITS["main"]
    snapshot.parent.mkdir(parents=True)
    write_custom_base(snapshot)
    byte_tokenizer().save_pretrained(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text(COMMITS["main"])
    file = write_tiny_recipe(tmp_path, Path("org/sandwich"), tiny_data)
    trusted = ("--set", "model.trust_remote_code=true", "--set", "model.revision=main")
    done = subprocess.run(
        [sys.executable, "-m", "finetune.cli", "smoke", str(file), *trusted, "--output", str(tmp_path / "smoke")],
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok        verify" in done.stdout
    name = "modeling_sandwich.py"
    assert (tmp_path / "smoke/run/bundle" / name).read_bytes() == (snapshot / name).read_bytes()
