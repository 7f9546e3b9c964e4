"""Every PEFT method through the whole line: stopped and resumed, split in micro-batches, over two processes, merged."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from finetune.errors import RecipeError
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.processes import FSDP2, torchrun
from tests.equivalence.test_batches import assert_same_run, losses
from tests.equivalence.test_resume import assert_same_bits, run_until, stir
from tests.methods import METHODS, changes

SHORT = ("train.max_steps=6", "train.micro_batch_size=2", "train.save_steps=2", "evaluate.rows=2")
SPLIT = ("train.max_steps=6", "train.save_steps=0", "evaluate.rows=2")


@pytest.fixture(scope="module")
def runs(tiny_base, tiny_data, tmp_path_factory):
    """A function: a method's whole run with changes on top, made once."""
    from finetune.recipefile import load_recipe

    made = {}

    def make(kind: str, *more: str):
        if (kind, more) not in made:
            file = write_tiny_recipe(tmp_path_factory.mktemp(kind), tiny_base, tiny_data)
            recipe = load_recipe(file, (*changes(kind), *more))
            made[kind, more] = recipe, run(recipe)
        return made[kind, more]

    return make


@pytest.mark.parametrize("kind", METHODS)
def test_resumed_is_uninterrupted(kind, runs, tiny_recipe, monkeypatch):
    """T1: stopped in step 4 of 6 (behind the checkpoint of step 2), resumed with other generators: the same bits.

    And the bundle of the uninterrupted run: merged = adapter to 1e-5 in every logit, the evaluated model to 1e-5 nats.
    """
    recipe = tiny_recipe(*changes(kind), *SHORT)
    run_until(recipe, 7, monkeypatch)
    stir()
    run(recipe, resume="auto")
    whole, result = runs(kind, *SHORT)
    assert_same_bits(recipe.output_dir, whole.output_dir)
    proof = result.manifest["merge_proof"]
    assert proof["max_logit_difference"] < 1e-5
    assert proof["evaluated"]["max_logprob_difference"] < 1e-5
    assert result.manifest["training"]["loss"] != pytest.approx(5.59, abs=0.003)  # it has learnt
    assert json.loads((result.bundle / "adapter/adapter_config.json").read_text())["peft_type"] == {"vera": "LORA"}.get(
        kind, kind.upper()
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_micro_batches(kind, runs):
    """T17: micro-batches of 4, 2 and 1 are one run; with gradient checkpointing too."""
    plain = tuple(change for change in changes(kind) if "dropout" in change and "vera" in change)
    off = ("vera.vera_dropout=0.0",) if plain else ()
    first = runs(kind, *off, *SPLIT, "train.micro_batch_size=4")[0].output_dir
    for more in ("train.micro_batch_size=2", "train.micro_batch_size=1"):
        assert_same_run(runs(kind, *off, *SPLIT, more)[0].output_dir, first)
    checkpointed = runs(kind, *off, *SPLIT, "train.micro_batch_size=4", "train.gradient_checkpointing=true")
    assert_same_run(checkpointed[0].output_dir, first)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vera", "ia3"])
def test_fsdp2(kind, runs, tiny_base, tiny_data, tmp_path):
    """T18: two processes with FSDP2 = one: VeRA's shared buffers stay whole, (IA)^3's single rows are split."""
    off = ("vera.vera_dropout=0.0",) if kind == "vera" else ()
    own = (*changes(kind), *off, *SPLIT, "train.micro_batch_size=1")
    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    words = [word for change in own for word in ("--set", change)]
    said = torchrun([ROOT / "scripts/train.py", file, *words], FSDP2)
    assert "2 process(es), fsdp2" in said
    one, result = runs(kind, *off, *SPLIT, "train.micro_batch_size=1")
    assert_same_run(tmp_path / "run", one.output_dir)
    two = json.loads((tmp_path / "run/bundle/MANIFEST.json").read_text())
    assert two["scores"] == result.manifest["scores"]


def test_an_adapter_is_gone_on_with(runs, tiny_recipe):
    """A run from an earlier run's (IA)^3 vectors: the first loss is not the base's, and another method's is refused."""
    whole, _ = runs("ia3", *SHORT)
    folder = whole.output_dir / "adapter"
    with pytest.raises(RecipeError, match=r"peft_type: oft, but the adapter in .* is ia3"):
        run(tiny_recipe(*changes("oft"), f"model.adapter_name_or_path={folder}"))
    on = tiny_recipe(*changes("ia3"), *SHORT, f"model.adapter_name_or_path={folder}", "train.max_steps=1")
    run(on, overwrite=True)
    assert losses(on.output_dir)[0] < losses(whole.output_dir)[0] - 0.005
    begun = load_file(folder / "adapter_model.safetensors")
    ended = load_file(on.output_dir / "adapter/adapter_model.safetensors")
    assert begun.keys() == ended.keys()
    assert all(bool((tensor != 1).any()) and not torch.equal(tensor, ended[name]) for name, tensor in begun.items())
