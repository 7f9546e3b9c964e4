"""Every PEFT method through the whole line: trained, proven, stopped and resumed, split over micro-batches and processes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from finetune import cli
from finetune.errors import GateError, RecipeError
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.processes import FSDP2, torchrun
from tests.equivalence.test_batches import assert_same_run, losses
from tests.equivalence.test_resume import assert_same_bits, run_until, stir
from tests.methods import METHODS, PROMPTED, changes

SHORT = ("train.max_steps=3", "train.micro_batch_size=4", "train.save_steps=0", "evaluate.rows=3")
LONG = ("train.max_steps=6", "train.micro_batch_size=2", "train.save_steps=2", "evaluate.rows=2")


@pytest.fixture(scope="module")
def runs(tiny_base, tiny_data, tmp_path_factory):
    """A function: a method's whole run with changes on top, made once."""
    made = {}

    def make(kind: str, *more: str):
        if (kind, more) not in made:
            file = write_tiny_recipe(tmp_path_factory.mktemp(kind), tiny_base, tiny_data)
            recipe = load_recipe(file, (*changes(kind), *more))
            made[kind, more] = recipe, run(recipe)
        return made[kind, more]

    return make


@pytest.mark.parametrize("kind", METHODS)
def test_from_data_to_bundle(kind, runs):
    """Three steps, and the proof of what they left.

    Merged = adapter to 1e-5 in every logit; the adapter from disk = the evaluated model to 1e-5 nats a token. Virtual
    tokens are merged nowhere: their bundle has no weights. VeRA's adapter is the LoRA that it is.
    """
    recipe, result = runs(kind, *SHORT)
    told = result.manifest
    names = {file.name for file in result.bundle.iterdir()}
    if kind in PROMPTED:
        assert not {"merge", "merge_proof"} & told.keys()
        assert not any(name.startswith(("model", "config")) for name in names)
        proof = told["adapter_proof"]
    else:
        assert told["merge"]["changed"] > 0
        proof = told["merge_proof"]
        assert proof["max_logit_difference"] < 1e-5
    assert proof["evaluated"]["max_logprob_difference"] < 1e-5
    assert {"adapter", "golden.jsonl", "README.md", "README.zh-CN.md", "MANIFEST.json", "recipe.yaml"} <= names
    written = json.loads((result.bundle / "adapter/adapter_config.json").read_text())
    assert written["peft_type"] == {"vera": "LORA"}.get(kind, kind.upper())
    trained = load_file(recipe.output_dir / "adapter/adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in trained.values())
    assert load_recipe(result.bundle / "recipe.yaml").adapter == recipe.adapter


@pytest.mark.parametrize("kind", PROMPTED)
def test_a_bundle_without_weights(kind, runs, tmp_path, capsys):
    """`finetune verify` answers the golden samples from adapter and base; a changed adapter does not pass.

    `finetune export` makes the same adapter again, out of the run and out of the bare folder.
    """
    recipe, result = runs(kind, *SHORT)
    assert cli.main(["verify", str(result.bundle)]) == 0
    assert "verified: this is the model that was evaluated" in capsys.readouterr().out
    for source, more in ((recipe.output_dir, []), (recipe.output_dir / "adapter", [])):
        again = tmp_path / source.name
        assert cli.main(["export", str(source), "--output", str(again), *more]) == 0
        weights = "adapter/adapter_model.safetensors"
        assert (again / weights).read_bytes() == (result.bundle / weights).read_bytes()
        assert not (again / "config.json").exists()
    for name in ("README.md", "README.zh-CN.md"):
        card = (result.bundle / name).read_text(encoding="utf-8")
        assert 'AutoPeftModelForCausalLM.from_pretrained("adapter")' in card
        assert "finetune verify ." in card and "from_pretrained(place)" not in card
    for targets, words in (
        ("[vllm]", "A19"),
        ("[{engine: vllm, form: adapter}]", "A18"),
        ("[transformers]", "A19"),
    ):
        command = [
            "export",
            str(recipe.output_dir),
            "--output",
            str(tmp_path / "x"),
            "--set",
            f"export.targets={targets}",
        ]
        assert cli.main(command) == 2
        assert words in capsys.readouterr().err
    broken = tmp_path / "broken"
    shutil.copytree(result.bundle, broken)
    file = broken / "adapter/adapter_model.safetensors"
    from safetensors.torch import save_file

    save_file({name: -3 * tensor for name, tensor in load_file(file).items()}, file)
    assert cli.main(["verify", str(broken)]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_resumed_is_uninterrupted(kind, runs, tiny_recipe, monkeypatch):
    """T1: stopped in step 4 of 6 (behind the checkpoint of step 2), resumed with other generators: the same bits."""
    more = ("vera.vera_dropout=0.1",) if kind == "vera" else ()
    recipe = tiny_recipe(*changes(kind), *LONG, *more)
    run_until(recipe, 7, monkeypatch)
    stir()
    run(recipe, resume="auto")
    assert_same_bits(recipe.output_dir, runs(kind, *LONG, *more)[0].output_dir)


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_micro_batches(kind, runs):
    """T17: micro-batches of 4, 2 and 1 are one run; with gradient checkpointing too, where the method takes it."""
    first = runs(kind, *SHORT)[0].output_dir
    others = [("train.micro_batch_size=2",), ("train.micro_batch_size=1",)]
    others += [] if kind == "prefix_tuning" else [("train.gradient_checkpointing=true",)]
    for more in others:
        assert_same_run(runs(kind, *SHORT, *more)[0].output_dir, first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "environment", "engine"),
    [("vera", FSDP2, "fsdp2"), pytest.param("prompt_tuning", {}, "ddp", marks=pytest.mark.long)],
)
def test_two_processes(kind, environment, engine, runs, tiny_base, tiny_data, tmp_path):
    """T18: two processes = one: VeRA's shared buffers stay whole under FSDP2, and virtual tokens train under DDP."""
    own = (*SHORT, "train.micro_batch_size=1")
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    words = [word for change in (*changes(kind), *own) for word in ("--set", change)]
    said = torchrun([ROOT / "scripts/train.py", file, *words], environment)
    assert f"2 process(es), {engine}" in said
    one, result = runs(kind, *own)
    assert_same_run(tmp_path / "run", one.output_dir)
    two = json.loads((tmp_path / "run/bundle/MANIFEST.json").read_text())
    assert two["scores"] == result.manifest["scores"]


@pytest.mark.parametrize("kind", ["prefix_tuning"])
def test_an_adapter_is_gone_on_with(kind, runs, tiny_recipe):
    """The first loss of a run from an earlier adapter is that adapter's, not the base's; another method's is refused."""
    whole, _ = runs(kind, *SHORT)
    folder = whole.output_dir / "adapter"
    with pytest.raises(RecipeError, match=rf"peft_type: oft, but the adapter in .* is {kind}"):
        run(tiny_recipe(*changes("oft"), f"model.adapter_name_or_path={folder}"))
    own = (*changes(kind), *SHORT, f"model.adapter_name_or_path={folder}", "train.max_steps=1")
    on = tiny_recipe(*own, "train.learning_rate=1e-6")
    run(on, overwrite=True)
    begun = load_file(folder / "adapter_model.safetensors")
    ended = load_file(on.output_dir / "adapter/adapter_model.safetensors")
    assert begun.keys() == ended.keys()
    assert max(float((begun[name] - ended[name]).abs().max()) for name in begun) <= 2e-6
    assert abs(losses(on.output_dir)[0] - losses(whole.output_dir)[0]) > 1e-4


def test_the_proof_without_a_merge_is_binding(runs, tmp_path):
    """A prompt's file that is not the evaluated model's stops the export: the proof is binding without a merge."""
    recipe, _ = runs("prompt_tuning", *SHORT)
    from safetensors.torch import save_file

    from finetune.export.bundle import write_bundle
    from finetune.export.record import read_record

    adapter = tmp_path / "adapter"
    shutil.copytree(recipe.output_dir / "adapter", adapter)
    file = adapter / "adapter_model.safetensors"
    save_file({name: -3 * tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(GateError, match="the adapter on disk is not the model that was evaluated"):
        write_bundle(read_record(recipe.output_dir), None, adapter, tmp_path / "out", recipe.export, print)
    assert not (tmp_path / "out").exists()
