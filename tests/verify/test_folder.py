"""verify of a bundle's folder: files against the manifest, ids, and answers through transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from finetune.cli import main
from finetune.commands import command_parser
from finetune.errors import GateError, RecipeError
from finetune.verify.command import verify_command
from tests.conftest import CHATML
from tests.verify.conftest import write_manifest
from tests.verify.serving import noise


def verified(folder: Path, *more: str) -> list[str]:
    return verify_command(command_parser().parse_args(["verify", str(folder), *more]))


def refused(folder: Path, *more: str) -> list[str]:
    with pytest.raises(GateError) as caught:
        verified(folder, *more)
    return str(caught.value).split("\n")


def failures(lines: list[str]) -> list[str]:
    return [line.split()[1] for line in lines if line.startswith("FAIL")]


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made.tuned, tmp_path / "bundle"))


def test_a_bundle_as_written_passes(made, tmp_path):
    """Hand-made greedy answers and log-probabilities are those of transformers' generate: 0 nats to five places."""
    lines = verified(made.tuned, "--exact", "1", "--json", str(tmp_path / "r.json"))
    checks = {check["name"]: check for check in json.loads((tmp_path / "r.json").read_text())["checks"]}
    assert {check["status"] for check in checks.values()} == {"pass"}
    assert list(checks) == [
        "files", "replies", "tokenizer", "template", "length", "stop", "sampling", "effect", "model", "answers", "latency",
    ]  # fmt: skip
    assert "8 of 8 golden answers, partings 0.000 a token, log-probabilities" in checks["model"]["message"]
    gap = float(checks["model"]["message"].split("log-probabilities ")[1].split()[0])
    assert gap < 1e-5
    assert lines[-1] == "verified: this is the model that was evaluated"
    assert main(["verify", str(made.tuned), "--samples", "1"]) == 0


def test_files_missing_changed_and_extra_are_named(copy):
    (copy / "extra.bin").write_bytes(b"x")
    (copy / ".cache").mkdir()
    (copy / ".cache/of-a-download").write_bytes(b"x")
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").write_text(template + "{# #}")
    assert refused(copy)[1] == (
        "FAIL     files      changed: chat_template.jinja, config.json; not in the manifest: extra.bin"
    )
    (copy / "chat_template.jinja").unlink()
    lines = refused(copy)
    assert failures(lines) == ["files", "replies"]
    assert "missing: chat_template.jinja; changed: config.json; not in the manifest: extra.bin" in lines[1]
    assert "has no chat template" in "".join(lines)


def test_damaged_weights_are_found_by_their_hash(copy):
    """A file cut short cannot be loaded: the hash says which, the rest is not asked."""
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    lines = refused(copy)
    assert failures(lines) == ["files", "replies"]
    assert any("changed: model.safetensors" in line for line in lines)
    assert main(["verify", str(copy)]) == 3


def test_another_template_in_the_folder(copy):
    """The manifest itself was written anew: only the golden ids know."""
    (copy / "chat_template.jinja").write_text("{{ '<|im_start|>' }}" + CHATML)
    write_manifest(copy)
    lines = refused(copy)
    assert failures(lines)[:1] == ["template"]
    assert "model" not in failures(lines)
    assert any("18 of 18 conversations have other token ids" in line for line in lines)


def test_a_template_that_refuses_is_named(copy):
    (copy / "chat_template.jinja").write_text("{{ raise_exception('no user here') }}")
    write_manifest(copy)
    lines = refused(copy)
    assert failures(lines) == ["replies"]
    assert any("the chat template refuses the prompt: no user here" in line for line in lines)


def test_the_base_s_weights_in_the_folder(made, copy):
    shutil.copyfile(made.base / "model.safetensors", copy / "model.safetensors")
    write_manifest(copy)
    assert failures(refused(copy)) == ["effect", "answers"]


def test_a_missing_stop_id(copy):
    for name in ("generation_config.json", "config.json"):
        content = json.loads((copy / name).read_text())
        content["eos_token_id"] = 256
        (copy / name).write_text(json.dumps(content))
    write_manifest(copy)
    assert failures(refused(copy)) == ["stop", "answers"]


def test_weights_that_were_changed_a_little(copy):
    """Answers part now and then: still this model, not as it was evaluated.

    Which noise does that depends on the weights, which another CPU trains a little otherwise: the first one that is seen.
    """
    weights = (copy / "model.safetensors").read_bytes()
    for seed in range(5, 25):
        (copy / "model.safetensors").write_bytes(weights)
        model = AutoModelForCausalLM.from_pretrained(copy)
        noise(model, seed)
        model.save_pretrained(copy)
        write_manifest(copy)
        try:
            verified(copy)
        except GateError:
            break
    assert failures(refused(copy)) == ["answers"]


def test_no_bundle(tmp_path):
    with pytest.raises(RecipeError, match=r"golden\.json: can't be read"):
        verified(tmp_path)
