"""A base that comes with its own code: refused without the key; with it from training to a bundle that loads elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from finetune.cli import main
from tests.conftest import write_tiny_recipe
from tests.custom_code.made import CODE, FILES, write_custom_base

TRUSTED = ("--set", "model.trust_remote_code=true")


@pytest.fixture
def custom(tmp_path, tiny_data):
    """The recipe's file on such a base."""
    return write_tiny_recipe(tmp_path, write_custom_base(tmp_path / "published"), tiny_data)


def test_refused_without_the_key_and_nothing_of_it_is_run(custom, tmp_path, capsys):
    trap = tmp_path / "published/modeling_sandwich.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n" + trap.read_text())
    assert main(["smoke", str(custom), "--output", str(tmp_path / "smoke")]) == 2
    told = capsys.readouterr()
    assert "Read that code, then set model.trust_remote_code: true" in told.err
    assert "failed    tiny base" in told.out and not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_trains_resumes_merges_and_loads_elsewhere(custom, tmp_path, capsys):
    """Steps all ok; the bundle has the code byte for byte; another process with the key loads it, one without does not."""
    told = tmp_path / "told.json"
    assert main(["smoke", str(custom), *TRUSTED, "--output", str(tmp_path / "smoke"), "--json", str(told)]) == 0
    capsys.readouterr()
    report = json.loads(told.read_text())
    assert report["architecture"] == "SandwichForCausalLM"
    assert {step["name"]: step["status"] for step in report["steps"]} == dict.fromkeys(
        ("tiny base", "data", "base", "training", "resume", "scores", "export", "reload", "verify", "packing"), "ok"
    )
    assert report["proof"]["max_logit_difference"] < 1e-4 and report["reload_difference"] < 1e-4
    bundle = tmp_path / "smoke/run/bundle"
    for name in FILES:
        assert (bundle / name).read_bytes() == (CODE / name).read_bytes()
    assert json.loads((bundle / "config.json").read_text())["auto_map"]["AutoModelForCausalLM"] == (
        "modeling_sandwich.SandwichForCausalLM"
    )
    assert main(["verify", str(bundle)]) == 2
    assert "custom code" in capsys.readouterr().err
    assert main(["verify", str(bundle), "--trust-remote-code"]) == 0


@pytest.mark.slow
def test_an_adapter_on_embeddings_is_merged_by_asking_the_code(custom, tmp_path):
    """Names don't tell whether output layer and embedding are one: the skeleton is built with the trusted code."""
    chosen = ("--set", "lora.target_modules=[qkv_proj, lm_head]", "--set", "lora.ensure_weight_tying=false")
    code = "import sys, transformers as t; t.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)"
    untied = tmp_path / "published/config.json"
    untied.write_text(json.dumps(json.loads(untied.read_text()) | {"tie_word_embeddings": False}))
    assert main(["smoke", str(custom), *TRUSTED, *chosen, "--output", str(tmp_path / "smoke")]) == 0
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "smoke/run/bundle")],
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
