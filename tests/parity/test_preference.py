"""dpo, orpo, simpo and kto against what TRL computed on the same model and ids (record_preference.py), to 1e-5."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace

import pytest
from peft import get_peft_model

from finetune.data.chat import IGNORED, Example
from finetune.data.items import LabelledItems, Pair
from finetune.model.head import TrainedPositions
from finetune.recipe_stages import DpoSection, KtoSection, OrpoSection, SimpoSection
from finetune.stages.base import means
from finetune.stages.dpo import Dpo
from finetune.stages.kto import Kto
from finetune.stages.orpo import Orpo
from finetune.stages.simpo import Simpo
from tests.parity.formula_model import LABELLED, PAD, PAIRS, SHORT_PROMPTS, fill_lora, grad_norm, lora_config, tiny_base
from tests.parity.record_preference import RECORD

RECORDED = json.loads(RECORD.read_text(encoding="utf-8"))
BETA = RECORDED["beta"]
ENCODER = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=PAD))
DPO = {
    "sigmoid": DpoSection(beta=BETA),
    "hinge": DpoSection(beta=BETA, loss_type="hinge"),
    "ipo": DpoSection(beta=BETA, loss_type="ipo"),
    "sigmoid_norm": DpoSection(beta=BETA, loss_type="sigmoid_norm"),
    "label_smoothing": DpoSection(beta=BETA, label_smoothing=0.1),
    "rpo": DpoSection(beta=BETA, rpo_alpha=0.5),
}


@cache
def model():
    peft = get_peft_model(tiny_base(), lora_config())
    fill_lora(peft)
    return TrainedPositions(peft)


def example(prompt, answer, marks=()) -> Example:
    return Example((*prompt, *answer), (IGNORED,) * len(prompt) + tuple(answer), "row", marks)


def pairs(rows) -> list[Pair]:
    return [Pair(example(prompt, chosen), example(prompt, rejected)) for prompt, chosen, rejected in rows]


def ours(stage, items) -> dict:
    """Loss, gradient norm and metrics as the loop makes them: sums divided by the count."""
    model().zero_grad()
    batch = stage.collate(items)
    loss, count = stage.loss(model(), batch), stage.count(batch)
    (loss.value / count).backward()
    logged = means({name: float(value) for name, value in loss.sums.items()} | {"count": float(count)})
    return {"loss": loss.value.item() / count, "grad_norm": grad_norm(model()), "metrics": logged}


def assert_same(found: dict, recorded: dict) -> None:
    assert found["loss"] == pytest.approx(recorded["loss"], rel=1e-5)
    assert found["grad_norm"] == pytest.approx(recorded["grad_norm"], rel=1e-5)
    for name, value in recorded["metrics"].items():
        if name in found["metrics"]:
            assert found["metrics"][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("variant", DPO)
def test_dpo(variant):
    found = ours(Dpo(ENCODER, None, DPO[variant]), pairs(PAIRS))
    assert found["metrics"].keys() >= RECORDED["dpo"][variant]["metrics"].keys()
    assert_same(found, RECORDED["dpo"][variant])


def test_every_recorded_variant_of_dpo_is_compared():
    assert DPO.keys() == RECORDED["dpo"].keys()


def test_orpo():
    """Prompts of one token: TRL's NLL, over prompt and answer, is then over the answer alone, as the paper's is."""
    recorded = RECORDED["orpo"]["short prompts, pair by pair"]
    found = ours(Orpo(ENCODER, None, OrpoSection(beta=BETA)), pairs(SHORT_PROMPTS))
    assert found["metrics"].keys() >= recorded["metrics"].keys()
    assert_same(found, recorded)


def test_the_odds_ratio_of_orpo_with_prompts_of_any_length():
    """Without TRL's NLL, which has the prompts in it, all is the same: the rest of the loss and what is logged."""
    recorded = RECORDED["orpo"]["odds ratio"]
    found = ours(Orpo(ENCODER, None, OrpoSection(beta=BETA)), pairs(PAIRS))
    rest = [side["loss"] - side["metrics"].pop("nll_loss") for side in (found, json.loads(json.dumps(recorded)))]
    assert rest[0] == pytest.approx(rest[1], abs=2e-6)
    for name in recorded["metrics"].keys() - {"nll_loss"}:
        assert found["metrics"][name] == pytest.approx(recorded["metrics"][name], rel=1e-5), name


def test_simpo():
    recorded = RECORDED["simpo"]
    found = ours(Simpo(ENCODER, None, SimpoSection(beta=BETA, gamma=recorded["gamma"])), pairs(PAIRS))
    assert found["metrics"].keys() >= recorded["metrics"].keys() - {"nll_loss"}  # TRL's 0.0: cpo_alpha is 0
    assert_same(found, recorded)


@pytest.mark.parametrize("variant", RECORDED["kto"])
def test_kto(variant):
    """TRL's mismatched answers, rotated by one, are those of the row before: no two prompts are alike here."""
    recorded = RECORDED["kto"][variant]
    weights = {name: recorded[name] for name in ("desirable_weight", "undesirable_weight")}
    items = LabelledItems([example(prompt, answer, (float(good),)) for prompt, answer, good in LABELLED], 64)
    found = ours(Kto(ENCODER, None, KtoSection(beta=BETA, **weights)), list(items))
    assert recorded["metrics"]["kl"] > 0.1  # else it would be clamped and say nothing
    assert found["metrics"].keys() >= recorded["metrics"].keys()
    assert_same(found, recorded)
