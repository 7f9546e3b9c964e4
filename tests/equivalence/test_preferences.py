"""Preference stages: splitting a batch changes nothing, precomputed is on the fly, resumed is uninterrupted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.data.chat import ChatEncoder
from finetune.data.formats import to_samples
from finetune.data.rows import Row
from finetune.evaluate.measure import Measured
from finetune.fullstate import full_tensors
from finetune.model.head import TrainedPositions
from finetune.recipe_stages import DpoSection, KtoSection, OrpoSection, SimpoSection
from finetune.run import run
from finetune.stages.dpo import Dpo
from finetune.stages.kto import Kto
from finetune.stages.orpo import Orpo
from finetune.stages.simpo import Simpo
from finetune.step import share
from finetune.stop import Preempted
from tests.conftest import ROOT
from tests.equivalence.processes import FSDP2, torchrun
from tests.equivalence.test_batches import adapter, assert_same_run, losses
from tests.equivalence.test_resume import assert_same_bits
from tests.stages.made import load_tiny, write_labelled, write_pairs

# 29 pairs in batches of 4: the seven steps of dpo draw 28; 34 labelled answers: the last of kto's nine has two. Looks
# after step 4 and at the end (kto: after 8 too).
SMALL = ("train.max_steps=7", "train.eval_steps=4", "evaluate.rows=4", "export.parity_rows=1")
PRECOMPUTED = "precompute_ref_log_probs=true"
STAGES = {
    "sigmoid": (Dpo, DpoSection(rpo_alpha=0.5)),
    "hinge": (Dpo, DpoSection(loss_type="hinge")),
    "ipo": (Dpo, DpoSection(loss_type="ipo")),
    "sigmoid_norm": (Dpo, DpoSection(loss_type="sigmoid_norm", label_smoothing=0.2)),
    "orpo": (Orpo, OrpoSection()),
    "simpo": (Simpo, SimpoSection()),
    "kto": (Kto, KtoSection(beta=0.5)),
}


@pytest.fixture(scope="module")
def policy(tiny_base):
    """A LoRA model that has moved away from its base, and its encoder."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(6)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), LoraConfig(r=2, init_lora_weights=False))
    return TrainedPositions(model.eval()), ChatEncoder(AutoTokenizer.from_pretrained(tiny_base))


@pytest.mark.parametrize("name", STAGES)
def test_gradients_of_a_batch_in_any_parts(policy, name, tmp_path):
    """Five rows as 5, as 2 + 3, as single ones, and beside a row with nothing to train on: one gradient."""
    model, encoder = policy
    kind, settings = STAGES[name]
    kto = kind is Kto
    file = (write_labelled if kto else write_pairs)(tmp_path / "rows.jsonl")
    rows = [Row(json.loads(line), "rows", i) for i, line in enumerate(file.read_text().splitlines()[:5])]
    data = SimpleNamespace(max_length=256, too_long="error")
    stage = kind(encoder, data, settings)
    items = stage.encode(to_samples(rows, "labelled" if kto else "preference", "kto" if kto else "dpo"))
    nothing = torch.autocast("cpu", enabled=False)
    alone = SimpleNamespace(accelerator=Alone(), sum_dtype=torch.float64, autocast=lambda: nothing)

    def gradient(groups) -> tuple[torch.Tensor, dict[str, float]]:
        model.zero_grad()
        batches = [stage.collate(group) for group in groups]
        share(model, stage, batches, alone)
        count = sum(stage.count(batch) for batch in batches)
        assert count == 5
        sums: dict[str, float] = {}
        for batch in batches:
            loss = stage.loss(model, batch)
            (loss.value / count).backward()
            for key, value in loss.sums.items():
                sums[key] = sums.get(key, 0.0) + float(value)
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]), sums

    whole, sums = gradient([items])
    assert float(whole.norm()) > 1e-3
    assert not kto or sums["kl"] > 0.1
    blank = items[0].blank()
    for groups in ([items[:2], items[2:]], [[item] for item in items], [[blank, *items]], [[blank], items]):
        other, other_sums = gradient(groups)
        assert float((other - whole).norm() / whole.norm()) < 1e-5
        assert other_sums == pytest.approx(sums, rel=1e-5, abs=1e-5)


def test_the_reference_of_a_run_that_goes_on_with_an_adapter(policy, tmp_path):
    """Is that adapter as it was: no reward before the first step, and the same numbers after the weights have moved."""
    model, encoder = policy
    rows = [Row(json.loads(line), "rows", 1) for line in write_pairs(tmp_path / "r.jsonl").read_text().splitlines()[:3]]
    stage = Dpo(encoder, SimpleNamespace(max_length=256, too_long="error"), DpoSection())
    batch = stage.collate(stage.encode(to_samples(rows, "preference", "dpo")))
    off = stage.reference_logps(model, batch)
    model.start = full_tensors(model.model)
    try:
        before = stage.reference_logps(model, batch)
        sums = stage.loss(model, batch).sums
        assert float(sums["rewards/chosen"]) == float(sums["rewards/rejected"]) == 0.0
        assert float((before - off).abs().min()) > 1e-3  # not the base
        moved = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for parameter in moved.values():
                parameter.mul_(1.5)
        assert stage.reference_logps(model, batch).tolist() == before.tolist()
        assert float(stage.loss(model, batch).sums["rewards/chosen"]) != 0.0
    finally:
        with torch.no_grad():
            for parameter in moved.values():
                parameter.div_(1.5)
        model.start = None


class Alone:
    """An accelerator of one process."""

    device = torch.device("cpu")

    def reduce(self, tensor, reduction):
        return tensor


@pytest.fixture(scope="module")
def precomputed(tiny_base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("precomputed")
    recipe = load_tiny(folder, tiny_base, "dpo", *SMALL, f"dpo.{PRECOMPUTED}", "train.save_steps=3")
    run(recipe)
    return recipe.output_dir


def test_precomputed_is_on_the_fly(tiny_base, tmp_path, precomputed):
    """And micro-batches of 4 are micro-batches of 1, gradient checkpointing or not; the numbers are on disk."""
    settings = ("train.micro_batch_size=1", "train.gradient_checkpointing=true")
    recipe = load_tiny(tmp_path, tiny_base, "dpo", *SMALL, *settings)
    run(recipe)
    assert len(set(losses(precomputed))) == 7
    assert_same_run(recipe.output_dir, precomputed)
    for name in ("rewards/margins", "eval_loss", "eval_rewards/chosen"):
        assert losses(recipe.output_dir, name) == pytest.approx(losses(precomputed, name), abs=1e-5)
    assert len(list((precomputed.parent / ".reference").glob("*.npz"))) == 2
    assert not (tmp_path / ".reference").exists()


def test_resumed_from_the_cache(tiny_base, tmp_path, precomputed, monkeypatch, capsys):
    """Stopped in step 6, taken up again: bit for bit the uninterrupted run, and the reference is never asked again."""
    recipe = load_tiny(tmp_path, tiny_base, "dpo", *SMALL, f"dpo.{PRECOMPUTED}", "train.save_steps=3")
    plain, seen = Dpo.loss, []

    def interrupted(self, model, batch):
        seen.append(model.training)
        if sum(seen) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, model, batch)

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Dpo, "loss", interrupted)
        run(recipe)
    capsys.readouterr()

    def unmeasured(_model, _stage, items, *_):
        return Measured(
            ("chosen_preferred", "count"),
            np.ones((len(items), 2)),
            lambda means: {"chosen_preferred": means["chosen_preferred"]},
        )

    def not_again(*_):
        raise AssertionError("the reference was computed again")

    with monkeypatch.context() as patch:
        patch.setattr(Dpo, "reference_logps", lambda self, model, batch: batch["reference"].view(2, -1).T)
        patch.setattr("finetune.evaluate.measure.measure", unmeasured)  # it has no cache
        patch.setattr("finetune.reference_logps._computed", not_again)
        run(recipe, resume="auto")
    said = capsys.readouterr().out
    assert said.count("log-probabilities of 28 training rows, from the cache") == 1
    assert said.count("log-probabilities of 4 held-out rows, from the cache") == 1
    assert_same_bits(recipe.output_dir, precomputed)


def test_what_the_cache_is_keyed_by(tiny_base, tmp_path, precomputed):
    """Another base, dtype or starting adapter, or another row, has other numbers; learning rate and beta have the same."""
    from finetune.reference_logps import _key

    recipe = load_tiny(tmp_path, tiny_base, "dpo")
    stage = Dpo(ChatEncoder(AutoTokenizer.from_pretrained(tiny_base)), recipe.data, DpoSection())
    rows = [Row(json.loads(line), "r", 1) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    items = stage.encode(to_samples(rows, "preference", "dpo"))
    facts = {"stage": "dpo", "model.sha256": "a", "model.dtype": "float32", "lora.r": 4, "train.learning_rate": 1.0}
    known = _key(items, facts)
    for same in ({"train.learning_rate": 2.0}, {"dpo.beta": 0.5}, {"lora.r": 8}):
        assert _key(items, facts | same) == known
    start = facts | {"starting adapter": "x"}
    others = [
        _key(items[:-1], facts),
        _key(items[::-1], facts),
        _key(items, facts | {"model.sha256": "b"}),
        _key(items, facts | {"model.dtype": "bfloat16"}),
        _key(items, start),
        _key(items, start | {"starting adapter": "y"}),
        _key(items, start | {"lora.lora_alpha": 4}),
    ]
    assert len({known, *others}) == 8


def test_a_broken_file_of_the_cache_is_computed_again(precomputed):
    from finetune.reference_logps import _read

    whole = next((precomputed.parent / ".reference").glob("*.npz"))
    rows = next(n for n in (28, 4) if _read(whole, n) is not None)
    assert _read(whole, rows).shape == (rows, 2)
    assert _read(whole, rows + 1) is None
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    broken = whole.with_name("broken.npz")
    broken.write_bytes(content)
    assert _read(broken, rows) is None
    broken.unlink()


@pytest.fixture(scope="module")
def kto_run(tiny_base, tmp_path_factory) -> Path:
    recipe = load_tiny(tmp_path_factory.mktemp("kto"), tiny_base, "kto", *SMALL, "train.max_steps=9", "kto.beta=0.5")
    run(recipe)
    return recipe.output_dir


def test_kto_in_micro_batches_of_one_with_a_precomputed_reference(tiny_base, tmp_path, kto_run):
    """The mean over the global batch is the baseline of every answer in it."""
    recipe = load_tiny(
        tmp_path,
        tiny_base,
        "kto",
        *SMALL,
        "train.max_steps=9",
        "kto.beta=0.5",
        f"kto.{PRECOMPUTED}",
        "train.micro_batch_size=1",
    )
    run(recipe)
    assert max(losses(kto_run, "kl")) > 0.5
    assert losses(recipe.output_dir, "kl") == pytest.approx(losses(kto_run, "kl"), abs=1e-4)
    assert_same_run(recipe.output_dir, kto_run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "engine"),
    [pytest.param("dpo", {}, marks=pytest.mark.long), ("kto", {}), ("dpo", FSDP2)],
    ids=["dpo", "kto", "dpo-fsdp2"],
)
def test_two_processes(stage, engine, tiny_base, tmp_path, precomputed, kto_run):
    """torchrun with two gloo processes, each computing half of the reference's numbers, = one; under FSDP2 on the fly."""
    one = precomputed if stage == "dpo" else kto_run
    settings = [
        *SMALL,
        f"{stage}.precompute_ref_log_probs={'false' if engine else 'true'}",
        "train.micro_batch_size=1",
        "train.save_steps=3",
    ]
    settings += ["kto.beta=0.5", "train.max_steps=9"] if stage == "kto" else []
    load_tiny(tmp_path, tiny_base, stage)
    command = [ROOT / "scripts/train.py", tmp_path / f"{stage}.yaml"]
    stdout = torchrun([*command, *(part for item in settings for part in ("--set", item))], engine)
    assert "= 2 process(es) x 2 x micro-batch of 1" in stdout
    assert_same_run(tmp_path / "run", one)
    assert losses(tmp_path / "run", "eval_loss") == pytest.approx(losses(one, "eval_loss"), abs=1e-5)
    assert adapter(one)
