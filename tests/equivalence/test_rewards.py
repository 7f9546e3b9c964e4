"""Reward models: a batch split any way, two processes, a resumed run and recomputed activations are one run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from finetune.errors import RecipeError
from finetune.model.score import SequenceScores, choose_padding, last_positions, with_score_head
from finetune.run import run
from finetune.stages.reward import Reward
from finetune.stop import Preempted
from tests.conftest import ROOT, byte_tokenizer, tiny_llama
from tests.equivalence.processes import FSDP2, torchrun
from tests.equivalence.test_batches import assert_same_run, losses
from tests.equivalence.test_resume import assert_same_bits, state, stir
from tests.reward_runs import reward_recipe

WHOLE = ("train.micro_batch_size=4", "train.eval_steps=4", "train.save_steps=4")


@pytest.fixture(scope="module")
def whole_batch(tiny_base, tmp_path_factory) -> Path:
    recipe = reward_recipe(tmp_path_factory.mktemp("whole"), tiny_base, *WHOLE)
    run(recipe)
    return recipe.output_dir


@pytest.mark.parametrize("change", ["train.micro_batch_size=2", "train.micro_batch_size=1"])
def test_micro_batches(tiny_base, tmp_path, whole_batch, change):
    """Pairs of different length, some silent on an aspect; 31 of them in batches of 4, so an epoch ends with 3."""
    recipe = reward_recipe(tmp_path, tiny_base, *WHOLE, change)
    run(recipe)
    assert_same_run(recipe.output_dir, whole_batch)
    looks = losses(whole_batch, "eval_accuracy/form")
    assert len(looks) == 3 and losses(recipe.output_dir, "eval_accuracy/form") == pytest.approx(looks)


def test_resumed_with_recomputed_activations(tiny_base, tmp_path, whole_batch, monkeypatch):
    """Stopped within step 7, resumed elsewhere: with gradient checkpointing, which may change between the two, bit for bit."""
    recipe = reward_recipe(tmp_path, tiny_base, *WHOLE, "train.gradient_checkpointing=true")
    plain, seen = Reward.loss, []

    def interrupted(self, model, batch):
        seen.append(model.training)
        if sum(seen) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, model, batch)

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Reward, "loss", interrupted)
        run(recipe)
    assert state(recipe.output_dir) == ("preempted", 7)
    stir()
    run(recipe, resume="auto")
    assert_same_bits(recipe.output_dir, whole_batch)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "environment"), [pytest.param("ddp", {}, marks=pytest.mark.long), ("fsdp2", FSDP2)])
def test_two_processes(tiny_base, tmp_path, whole_batch, engine, environment):
    """Batches of an epoch's end have 3 pairs, so a process has a blank one; held-out pairs are each measured once."""
    reward_recipe(tmp_path, tiny_base)
    words = [word for change in (*WHOLE, "train.micro_batch_size=1") for word in ("--set", change)]
    said = torchrun([ROOT / "scripts/train.py", tmp_path / "judge.yaml", *words], environment)
    assert f"cpu, float32, 2 process(es), {engine}" in said
    assert_same_run(tmp_path / "run", whole_batch)
    for name in ("eval_loss", "eval_accuracy"):
        assert losses(tmp_path / "run", name) == pytest.approx(losses(whole_batch, name), abs=1e-6)


def test_a_head_of_zeros_scores_every_pair_a_tie(whole_batch):
    """The base's accuracy is exactly a half, in all and in each aspect."""
    import json

    scores = json.loads((whole_batch / "bundle/MANIFEST.json").read_text())["scores"]
    assert scores["base"] == {"accuracy": 0.5, "accuracy/right": 0.5, "accuracy/form": 0.5}
    assert list(scores["tuned"]) == list(scores["base"]) and scores["tuned"]["accuracy/right"] > 0.5


class Bare(torch.nn.Module):
    def __init__(self, model) -> None:
        super().__init__()
        self.inner = model

    def get_base_model(self):
        return self.inner


def scored(ends: set[int]):
    tokenizer = byte_tokenizer()
    model = with_score_head(tiny_llama(len(tokenizer)), ["one", "two"])
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(1))
    choose_padding(model, tokenizer, ends)
    return model, tokenizer


def test_the_last_real_token_is_pooled_where_the_padding_is_the_eos():
    """T28: the tokenizer's pad is its eos, 257, and the conversations end with it. transformers' own forward looks for
    the last id that is not the padding's; after `choose_padding` it finds ours, padded or not, on either side."""
    rows = [[256, 5, 9, 257], [256, 5, 257], [8, 257]]
    model, tokenizer = scored(ends={257})
    assert model.config.pad_token_id == tokenizer.pad_token_id == 256  # the bos: no conversation ends with it
    one_by_one = torch.cat([SequenceScores(Bare(model))(torch.tensor([r]), torch.ones(1, len(r))) for r in rows])
    for side in ("right", "left"):
        tokenizer.padding_side = side
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        ours = SequenceScores(Bare(model))(batch["input_ids"], batch["attention_mask"])
        theirs = model(**batch).logits
        torch.testing.assert_close(ours, one_by_one, atol=1e-5, rtol=0)
        torch.testing.assert_close(theirs, one_by_one, atol=1e-5, rtol=0)
    model.config.pad_token_id = 257  # as it was: another token's score, without a word
    assert float((model(**batch).logits - one_by_one).abs().min()) > 1e-3


def test_padding_that_ends_no_conversation_stays():
    model, tokenizer = scored(ends={10, 256})
    assert model.config.pad_token_id == tokenizer.pad_token_id == 257
    with pytest.raises(RecipeError, match="conversations end with every special token that could be the padding"):
        scored(ends={256, 257})


def test_last_positions():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 0, 0]])
    assert last_positions(mask).tolist() == [1, 3, 3, 1]


def test_a_chain_ends_with_a_judge(tiny_base, tmp_path):
    """sft, then reward from its adapter. Through a head of zeros nothing but the head has a gradient, so after one step
    of reward every LoRA weight is sft's, bit for bit, under a head that is not 0 any more."""
    import json

    import yaml
    from safetensors.torch import load_file

    from finetune.recipefile import load_recipe

    reward_recipe(tmp_path, tiny_base)
    rows = [{"prompt": f"{a} and more?", "completion": "larger"} for a in range(9)]
    (tmp_path / "told.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = yaml.safe_load((tmp_path / "judge.yaml").read_text())
    told = {"format": "auto", "train": str(tmp_path / "told.jsonl"), "split": {"eval_rows": 2}}
    judge = {"stage": "reward", **{key: whole.pop(key) for key in ("data", "reward")}, "train": {"max_steps": 1}}
    del whole["stage"]
    file = tmp_path / "chain.yaml"
    stages = [{"stage": "sft", "data": told, "train": {"max_steps": 2}}, judge]
    file.write_text(yaml.safe_dump(whole | {"stages": stages}, sort_keys=False))
    result = run(load_recipe(file))
    assert result.manifest["rewards"] == ["right", "form"]
    before, after = (
        load_file(tmp_path / "run" / folder / "adapter_model.safetensors")
        for folder in ("stages/1-sft/adapter", "adapter")
    )
    head = "base_model.model.score.weight"
    assert after.keys() - before.keys() == {head} and float(after[head].abs().max()) > 0
    assert all(torch.equal(after[name], before[name]) for name in before)
    file.write_text(yaml.safe_dump(whole | {"stages": stages[::-1]}, sort_keys=False))
    with pytest.raises(
        RecipeError, match=r"stages\.0\.stage: reward: a model under a score head writes no text; make it the last"
    ):
        load_recipe(file)
